"""`refsr weights`: what a file is, and ours made of others."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from refsr_cli.cli import app
from refsr_cli.config import ConvertConfig, InspectConfig
from refsr_cli.errors import BadSetting, BadWeights
from refsr_cli.models import build
from refsr_cli.tasks.weights import convert, inspect
from refsr_cli.weights.files import load_weights, save_weights
from refsr_cli.weights.layouts import PUBLISHED


@pytest.fixture
def published(tmp_path) -> Path:
    """An MDSR as its authors' code names its tensors, inside a checkpoint."""
    naming = PUBLISHED["mdsr"].read
    model = build("mdsr", 4, {"blocks": 2})
    assert naming is not None
    theirs = naming(tmp_path, {"head.0.weight": torch.zeros(64, 3, 3, 3)}, None).naming
    path = tmp_path / "mdsr.pt"
    torch.save({"state_dict": {f"module.{theirs(key)}": value for key, value in model.state_dict().items()}}, path)
    return path


def test_what_a_file_is(published):
    (found,) = inspect(InspectConfig(weights=str(published)))
    assert (found.model, found.layout, found.scales) == ("mdsr", "mdsr", [2, 3, 4])
    assert found.config["blocks"] == 2 and found.bytes == published.stat().st_size
    (ours,) = inspect(InspectConfig(weights="edsr-baseline-x4"))
    assert (ours.model, ours.layout, ours.scales, ours.parameters) == ("edsr-baseline", "refsr", [4], 1_517_571)
    assert ours.licence == "Apache-2.0"


@pytest.mark.parametrize("half", [False, True])
def test_ours_made_of_theirs_is_the_same_net(published, half):
    (done,) = convert(ConvertConfig(weights=str(published), half=half))
    assert done.path == published.with_suffix(".safetensors")
    whole = torch.load(published, weights_only=True)["state_dict"]
    made = load_weights(done.path)
    assert (made.name, made.metadata["source"], asdict(made.model.config)["blocks"]) == ("mdsr", "mdsr", 2)
    largest = max(float(value.abs().max()) for value in whole.values())
    tolerance = 2**-11 * largest if half else 0.0
    for theirs, value in zip(whole.values(), made.model.state_dict().values(), strict=True):
        torch.testing.assert_close(value, theirs, rtol=0, atol=tolerance)
    with pytest.raises(BadSetting, match="--overwrite replaces it"):
        list(convert(ConvertConfig(weights=str(published))))
    (again,) = convert(ConvertConfig(weights=str(published), overwrite=True))
    assert again.bytes >= done.bytes
    with pytest.raises(BadSetting, match="another --output"):
        list(convert(ConvertConfig(weights=str(again.path), overwrite=True)))
    with pytest.raises(BadSetting, match=r"end in \.safetensors"):
        ConvertConfig(weights=str(published), output=Path("a.pt"))


def test_what_was_not_named_by_its_path_is_converted_to_here(tmp_path, monkeypatch):
    """And not into the cache of the hub, or the package."""
    monkeypatch.chdir(tmp_path)
    (done,) = convert(ConvertConfig(weights="edsr-baseline-x4"))
    assert done.path == Path("edsr-baseline-x4.safetensors") and (tmp_path / done.path).is_file()


def test_the_checkpoint_of_a_training_is_told_from_its_weights(tmp_path):
    torch.save({"step": 1, "model": {}, "averaged": {}, "optimizer": {}, "lesson": {}}, tmp_path / "state.pt")
    with pytest.raises(BadWeights, match=r"checkpoint of a training; its weights are .*model\.safetensors"):
        list(inspect(InspectConfig(weights=str(tmp_path / "state.pt"))))


class Whole(torch.nn.Module):
    """A net that somebody pickled as it was."""


def test_on_the_command_line(published, tmp_path):
    run = CliRunner().invoke
    told = run(app, ["weights", "inspect", str(published)])
    assert told.exit_code == 0 and "mdsr x2, x3, x4" in told.output and "blocks: 2" in told.output
    record = json.loads(run(app, ["weights", "inspect", "--json", str(published)]).stdout)
    assert record["config"]["res_scale"] == 1.0 and len(record["sha256"]) == 64
    made = run(app, ["weights", "convert", str(published), "-o", str(tmp_path / "out.safetensors"), "--half"])
    assert made.exit_code == 0 and (tmp_path / "out.safetensors").exists()
    torch.save({"model": Whole()}, tmp_path / "whole.pth")
    refused = run(app, ["weights", "inspect", str(tmp_path / "whole.pth")])
    assert refused.exit_code != 0 and "Whole" in refused.output and "state_dict" in refused.output
    assert "Traceback" not in refused.output


def test_a_net_may_leave_out_its_trunk(tmp_path):
    """The file is smaller by it, and the net the same; where the trunk is not beside it, that is said."""
    trunk, small = tmp_path / "trunk.safetensors", tmp_path / "small.safetensors"
    whole = tmp_path / "whole.safetensors"
    list(convert(ConvertConfig(weights="edsr-baseline-x4", output=trunk, half=True)))
    list(convert(ConvertConfig(weights="refnet-x4", output=whole, half=True)))
    (done,) = convert(ConvertConfig(weights="refnet-x4", output=small, half=True, trunk=trunk))
    assert whole.stat().st_size - done.bytes > 0.9 * trunk.stat().st_size
    expected, found = (load_weights(path).model.state_dict() for path in (whole, small))
    assert expected.keys() == found.keys() and all(torch.equal(found[key], value) for key, value in expected.items())

    again = tmp_path / "again.safetensors"
    list(convert(ConvertConfig(weights=str(small), output=again)))
    trunk.rename(tmp_path / "elsewhere.safetensors")
    assert load_weights(again).model.config == load_weights(whole).model.config
    with pytest.raises(BadWeights, match=r"trunk\.safetensors beside it, and that is missing"):
        load_weights(small)
    list(convert(ConvertConfig(weights="edsr-baseline-x2", output=trunk)))
    with pytest.raises(BadWeights, match="not the file that holds the trunk"):
        load_weights(small)


def test_only_its_own_trunk_is_left_out(tmp_path):
    trunk, out = tmp_path / "trunk.safetensors", tmp_path / "out.safetensors"
    list(convert(ConvertConfig(weights="edsr-baseline-x4", output=trunk)))  # without rounding: other bits, if any
    (done,) = convert(ConvertConfig(weights="refnet-x4", output=out, trunk=trunk))
    assert done.bytes < 3 * 10**6
    list(convert(ConvertConfig(weights="edsr-baseline-x2", output=trunk, overwrite=True)))
    for name in ("refnet-x4", "edsr-baseline-x4"):
        with pytest.raises(BadSetting, match="is not the trunk of this"):
            list(convert(ConvertConfig(weights=name, output=out, trunk=trunk, overwrite=True)))
    with pytest.raises(BadSetting, match="must lie beside"):
        list(convert(ConvertConfig(weights="refnet-x4", output=tmp_path / "deeper" / "out.safetensors", trunk=trunk)))


def test_a_trunk_is_never_overwritten_by_the_net_that_needs_it(tmp_path):
    trunk, small = tmp_path / "trunk.safetensors", tmp_path / "small.safetensors"
    list(convert(ConvertConfig(weights="edsr-baseline-x4", output=trunk)))
    list(convert(ConvertConfig(weights="refnet-x4", output=small, trunk=trunk)))
    before = trunk.read_bytes()
    for settings in ({"weights": "refnet-x4", "trunk": trunk}, {"weights": str(small)}):
        with pytest.raises(BadSetting, match="holds the trunk"):
            list(convert(ConvertConfig(**settings, output=trunk, overwrite=True)))
    assert trunk.read_bytes() == before


@pytest.mark.parametrize("name", ["", "/", "..", "../trunk.safetensors", "a" * 400])
def test_a_damaged_name_of_a_trunk(tmp_path, name):
    path = tmp_path / "net.safetensors"
    save_file(
        {"a": torch.zeros(1)}, path, {"format": "refsr", "model": "refnet", "scale": "4", "config": "{}", "trunk": name}
    )
    with pytest.raises(BadWeights, match="its metadata says trunk"):
        load_weights(path)


def test_a_trunk_in_full_precision_and_a_link(tmp_path):
    """What is left out is compared before the rest is rounded; and a link finds what lies beside the file itself."""
    model = build("refnet", 4, {"trunk_features": 8, "trunk_blocks": 1, "features": 8, "blocks": 1})
    trunk, whole, small = (tmp_path / f"{name}.safetensors" for name in ("trunk", "whole", "small"))
    save_weights(trunk, model.trunk, "edsr-baseline", {})
    save_weights(whole, model, "refnet", {})
    list(convert(ConvertConfig(weights=str(whole), output=small, half=True, trunk=trunk)))
    (tmp_path / "deeper").mkdir()
    link = tmp_path / "deeper" / "link.safetensors"
    link.symlink_to(small)
    loaded = load_weights(link).model.state_dict()
    assert all(torch.equal(loaded[f"trunk.{key}"], value) for key, value in model.trunk.state_dict().items())

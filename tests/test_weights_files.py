"""Our own weight files give back what was saved; every other file is refused with a sentence that helps."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from refsr_cli.errors import BadSetting, BadWeights
from refsr_cli.models import MODELS, SRModel, build
from refsr_cli.weights.files import load_weights, save_weights

SMALL = {"features": 4, "blocks": 2}


def small(scale: int = 2) -> SRModel:
    return build("edsr-baseline", scale, SMALL)


def write(path: Path, tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> Path:
    """A file like ours for a small net x2, with other tensors or other metadata."""
    ours = {"format": "refsr", "model": "edsr-baseline", "scale": "2", "config": json.dumps(SMALL)}
    save_file(tensors or small().state_dict(), path, {**ours, **metadata})
    return path


def refusal(path: Path) -> str:
    """What is said of a bad file: one line that names it."""
    with pytest.raises(BadWeights) as error:
        load_weights(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    return message


@given(
    features=st.integers(1, 6),
    blocks=st.integers(0, 3),
    scale=st.sampled_from([2, 3, 4, 8]),
    res_scale=st.floats(0.01, 1),
    mean=st.tuples(*[st.floats(0, 1, width=32)] * 3),
    value_range=st.sampled_from([1.0, 255.0]),
)
def test_round_trip_is_exact(tmp_path_factory, features, blocks, scale, res_scale, mean, value_range):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    config = {
        "features": features,
        "blocks": blocks,
        "res_scale": res_scale,
        "mean": mean,
        "value_range": value_range,
    }
    model = build("edsr-baseline", scale, config)
    save_weights(path, model, "edsr-baseline", {"steps": "7"})
    loaded = load_weights(path)
    assert loaded.name == "edsr-baseline" and loaded.model.scale == scale and loaded.metadata["steps"] == "7"
    assert loaded.model.config == model.config and isinstance(loaded.model.config.mean, tuple)
    image = torch.rand(1, 3, 5, 7)
    assert torch.equal(loaded.model(image), model(image))
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value)


def test_half_precision_files_load_as_float32(tmp_path):
    model = small()
    save_weights(tmp_path / "net.safetensors", model, "edsr-baseline", {}, torch.float16)
    loaded = load_weights(tmp_path / "net.safetensors").model
    for key, value in model.state_dict().items():
        assert loaded.state_dict()[key].dtype == torch.float32
        assert torch.equal(loaded.state_dict()[key], value.half().float())


def test_loaded_weights_can_be_saved_again(tmp_path):
    save_weights(tmp_path / "a.safetensors", small(), "edsr-baseline", {"recipe": "short"})
    first = load_weights(tmp_path / "a.safetensors")
    save_weights(tmp_path / "b.safetensors", first.model, first.name, first.metadata)
    second = load_weights(tmp_path / "b.safetensors")
    assert first.metadata == second.metadata
    assert torch.equal(first.model.head.weight, second.model.head.weight)


def test_further_metadata_cannot_replace_what_rebuilds_the_net(tmp_path):
    save_weights(tmp_path / "net.safetensors", small(), "edsr-baseline", {"scale": "4", "model": "bicubic"})
    assert load_weights(tmp_path / "net.safetensors").model.scale == 2


def test_config_may_lack_fields_that_came_later(tmp_path):
    assert load_weights(write(tmp_path / "net.safetensors")).model.config.value_range == 255


def test_integers_stand_for_floats_in_a_config(tmp_path):
    config = load_weights(write(tmp_path / "n.safetensors", config=json.dumps({**SMALL, "res_scale": 1}))).model.config
    assert isinstance(config.res_scale, float)


def test_a_model_without_parameters_is_not_saved(tmp_path):
    with pytest.raises(BadSetting, match="no weights to save"):
        save_weights(tmp_path / "net.safetensors", build("bicubic", 2), "bicubic", {})
    assert not list(tmp_path.iterdir())


def test_missing_file(tmp_path):
    assert "there is no weight file" in refusal(tmp_path / "nothing.safetensors")


def test_folder(tmp_path):
    assert "is a folder; name the weight file in it" in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    path = write(tmp_path / "net.safetensors")
    path.chmod(0)
    assert "cannot read" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"not at all", "not a whole safetensors file"),
        (b"\xff" * 300, "not a whole safetensors file"),
        (b"PK\x03\x04" + bytes(200), "not a whole safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "run 'git lfs pull'"),
    ],
    ids=["empty", "text", "noise", "zip", "lfs"],
)
def test_other_content(tmp_path, content, words):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    assert words in refusal(path)


@pytest.mark.parametrize("kept", [8, 100, -1])
def test_truncated_file(tmp_path, kept):
    path = write(tmp_path / "net.safetensors")
    path.write_bytes(path.read_bytes()[:kept])
    assert "not a whole safetensors file" in refusal(path)


def test_foreign_safetensors(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(small().state_dict(), path)
    assert "was not written by refsr" in refusal(path)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"model": "vdsr"}, "for model 'vdsr', which this refsr does not have; update refsr"),
        ({"scale": "many"}, "says scale 'many'"),
        ({"scale": "5"}, "cannot be built: model 'edsr-baseline' has no scale 5"),
        ({"config": "{"}, "not a JSON object"),
        ({"config": "[]"}, "not a JSON object"),
        (
            {"config": json.dumps({**SMALL, "depth": 1, "width": 2})},
            "config fields unknown to model 'edsr-baseline': depth",
        ),
        ({"config": json.dumps({**SMALL, "features": "four"})}, 'its config says features = "four"'),
        ({"config": json.dumps({**SMALL, "blocks": True})}, "its config says blocks = true"),
        ({"config": json.dumps({**SMALL, "res_scale": float("nan")})}, "its config says res_scale = NaN"),
        ({"config": json.dumps({**SMALL, "mean": [0.1, 0.2]})}, "cannot be built"),
        ({"config": json.dumps({**SMALL, "mean": ["a", "b", "c"]})}, "cannot be built"),
        ({"config": json.dumps({**SMALL, "features": -4})}, "cannot be built"),
    ],
)
def test_bad_metadata(tmp_path, metadata, words):
    assert words in refusal(write(tmp_path / "net.safetensors", **metadata))


def test_absent_metadata(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(small().state_dict(), path, {"format": "refsr", "model": "edsr-baseline"})
    assert "its metadata lacks scale, config" in refusal(path)


def test_differences_are_listed_shortly(tmp_path):
    tensors = small().state_dict()
    for key in list(tensors)[:6]:
        del tensors[key]
    tensors["extra.weight"] = torch.zeros(2)
    tensors["tail.1.bias"] = torch.zeros(5)
    message = refusal(write(tmp_path / "net.safetensors", tensors))
    assert "does not fit model 'edsr-baseline' x2" in message
    assert "6 missing (head.weight, head.bias, body.0.conv1.weight, body.0.conv1.bias, …)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "1 of another shape (tail.1.bias is 5 instead of 3)" in message


def test_a_huge_config_is_refused_before_memory_is_taken(tmp_path):
    config = json.dumps({"features": 10_000_000, "blocks": 2})
    assert "head.weight is 4x3x3x3 instead of 10000000x3x3x3" in refusal(
        write(tmp_path / "n.safetensors", config=config)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers(tmp_path, value):
    tensors = small().state_dict()
    tensors["body.1.conv2.bias"][2] = value
    assert "tensor 'body.1.conv2.bias' holds NaN or infinite" in refusal(write(tmp_path / "net.safetensors", tensors))


@pytest.mark.parametrize("name", ["restorer", "srdensenet", "srresnet-3x3"])
def test_reading_draws_no_random_numbers(tmp_path, name):
    """Weights are those of the file, not drawn first: the caller's generator goes on as if nothing was read."""
    scale = MODELS[name].net.scales[0]
    net = build(name, scale)
    save_weights(tmp_path / "a.safetensors", net, name, {})
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    read = load_weights(tmp_path / "a.safetensors").model
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in read.state_dict().items())

"""`refsr doctor`: what a report of a fault needs, and an exit code that says whether all works."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from refsr_cli import __version__
from refsr_cli.cli import app
from refsr_cli.errors import BadWeights
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.tasks import doctor
from refsr_cli.weights.manifest import read_manifest


def findings(expected_code: int) -> dict[str, dict]:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == expected_code, done.output
    return {record["topic"]: record for record in map(json.loads, done.output.splitlines())}


def test_what_is_there():
    found = findings(0)
    assert found["refsr"]["text"].startswith(__version__) and all(record["works"] for record in found.values())
    assert all(record.id in found["weights"]["text"] for record in read_manifest() if record.repo is None)
    assert {"torch", "device", "data", "self-test", *doctor.EXTRAS} <= set(found)
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 0 and "kept its colour" in " ".join(shown.output.split())


@pytest.mark.parametrize(
    ("fault", "topic", "said"),
    [
        ("damaged", "weights", "is damaged"),
        ("colour", "self-test", "levels off"),
        ("crash", "self-test", "could not create a primitive"),
    ],
)
def test_what_does_not_work_is_named(monkeypatch, fault, topic, said):
    def damaged(*_, **__):
        raise BadWeights("edsr-baseline-x4.safetensors is damaged")

    class Wrong(Upscaler):
        def __call__(self, picture, scale=None, refs=None):
            if fault == "crash":
                raise RuntimeError("could not create a primitive\nand more")
            result = super().__call__(picture, scale, refs)
            return replace(result, pixels=np.roll(result.pixels, 1, 2))

    if fault == "damaged":
        monkeypatch.setattr(doctor, "find_weights", damaged)
    else:
        monkeypatch.setattr(doctor, "Upscaler", Wrong)
    failed = {name: record["text"] for name, record in findings(1).items() if not record["works"]}
    assert list(failed) == [topic] and said in failed[topic] and "\n" not in failed[topic]

"""Ways to enlarge a picture that are compared by speed: refsr's own, the same net as it is usually run, and what else
is installed. Each takes pixels (H, W, 3) uint8 and gives (scale*H, scale*W, 3) uint8."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

from refsr_cli.errors import BadSetting
from refsr_cli.images import Picture, Pixels
from refsr_cli.inference.device import pick_device, pick_precision
from refsr_cli.inference.fast import fast
from refsr_cli.inference.runner import ensembled
from refsr_cli.inference.upscaler import Upscaler
from refsr_cli.layers.folding import apply_folded
from refsr_cli.models import SRModel, build
from refsr_cli.weights.store import available, load_model

Enlarge = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class Task:
    """What all of them are to do."""

    model: str
    scale: int
    device: str
    weights: str | None = None
    trained: bool = False
    """Whether weights are fetched where none are packaged, as results are to be scored; else an untrained net will
    do."""


@dataclass(frozen=True)
class Contender:
    """One way to do it."""

    what: str
    """In a few words."""
    open: Callable[[Task], Enlarge]
    needs: tuple[str, ...] = ()
    """Packages without which it is left out."""
    own: bool = False
    """Whether it is run with the settings of the `refsr` command."""
    folded: bool = False
    """Whether what enlarges is folded into one convolution before: the outermost pixels are then not quite those of
    the net."""
    on_cpu_only: bool = False
    passes: int = 1
    """Of the net over the picture."""
    runs_net: bool = True
    """Whether it is the net of the task, not another."""
    trained: bool = True
    """Whether what it gives is worth a score."""
    when_named: bool = False
    """Whether it takes part only then."""

    @property
    def installed(self) -> bool:
        return all(find_spec(name) for name in self.needs)


def net_of(task: Task) -> SRModel:
    """The net with its weights, or untrained where there are none for that scale: as fast. Where they are named, or
    results scored, raises what `load_model` raises, and BadSetting for those of another scale."""
    if task.weights or task.trained:
        model = load_model(task.model, task.scale, task.weights).model.merged().eval()
        if model.scale != task.scale:
            raise BadSetting(
                f"the weights at hand of {task.model} are for x{model.scale}, not x{task.scale}: give that --scale, "
                "leave out --truth, or name others with --weights"
            )
        return model
    here = available(task.model)
    if (task.model, task.scale) in here:
        return load_model(task.model, task.scale).model.merged().eval()
    return build(task.model, task.scale).eval()


def _forward(model: SRModel) -> Callable[[Tensor], Tensor]:
    """The net as it is; one that needs references has none but the picture."""
    if model.needs_ref:
        return lambda lr: model(lr, model.look(lr, []))
    return model


def _plain(task: Task) -> Enlarge:
    device = pick_device(task.device)
    run = _forward(net_of(task).to(device))
    return lambda pixels: _through(lambda lr: run(lr).clamp(0, 1), pixels, device)


def _plain_ensemble(task: Task) -> Enlarge:
    device = pick_device(task.device)
    run = _forward(net_of(task).to(device))
    return lambda pixels: _through(lambda lr: ensembled(run)(lr).clamp(0, 1), pixels, device)


@torch.no_grad()
def _through(run: Callable[[Tensor], Tensor], pixels: Pixels, device: torch.device) -> Pixels:
    """As scripts do it: the whole picture at once, channels first, float32."""
    lr = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).to(device)[None].float() / 255
    sr = run(lr)[0].mul(255).round().byte().cpu()
    return np.ascontiguousarray(sr.permute(1, 2, 0).numpy())


def _refsr(precision: str, *, self_ensemble: bool = False, compile: bool = False) -> Callable[[Task], Enlarge]:
    def opened(task: Task) -> Enlarge:
        upscaler = Upscaler(
            net_of(task),
            device=task.device,
            precision=precision,
            self_ensemble=self_ensemble,
            compile=compile,
            as_published=True,  # the same picture as from the others
        )
        return lambda pixels: upscaler(Picture(pixels, None, "png", None, None, None), task.scale).pixels

    return opened


def _bicubic(task: Task) -> Enlarge:
    import cv2

    size = task.scale
    return lambda pixels: np.asarray(cv2.resize(pixels, None, fx=size, fy=size, interpolation=cv2.INTER_CUBIC))


class _Whole(nn.Module):
    """A net as others convert it: clamped, and nothing else."""

    def __init__(self, model: SRModel) -> None:
        super().__init__()
        self.model, self.run = model, _forward(model)

    def forward(self, lr: Tensor) -> Tensor:
        return self.run(lr).clamp(0, 1)


class _Folded(nn.Module):
    """A net with one convolution for all that enlarges, as refsr has it, clamped."""

    def __init__(self, model: SRModel) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            features = model.body_output(torch.zeros(1, 3, 8, 8)).shape[1]
            self.weight, self.bias = model.folded(features)

    def forward(self, lr: Tensor) -> Tensor:
        return apply_folded(self.weight, self.bias, self.model.body_output(lr), self.model.scale).clamp(0, 1)


def _converted(task: Task, folded: bool) -> nn.Module:
    """The net that other engines are given. Raises BadSetting."""
    model = net_of(task)
    if not folded:
        return _Whole(model)
    if not model.foldable:
        raise BadSetting(f"what enlarges in '{task.model}' is not linear, and cannot be folded")
    return _Folded(model)


def _openvino(hint: str, *, folded: bool = False) -> Callable[[Task], Enlarge]:
    def opened(task: Task) -> Enlarge:
        import openvino  # type: ignore[import-not-found,import-untyped,unused-ignore]

        sides = {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
        net = _converted(task, folded)
        program = torch.export.export(net, (torch.rand(1, 3, 32, 48),), dynamic_shapes={"lr": sides})
        converted = openvino.convert_model(program)
        compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        return lambda pixels: _with_arrays(lambda lr: compiled(lr)[0], pixels)

    return opened


def _onnxruntime(*, folded: bool = False) -> Callable[[Task], Enlarge]:
    def opened(task: Task) -> Enlarge:
        import io

        import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]

        file = io.BytesIO()
        free = {name: {2: "height", 3: "width"} for name in ("lr", "sr")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it traces
            torch.onnx.export(
                _converted(task, folded),
                (torch.rand(1, 3, 32, 32),),
                file,  # type: ignore[arg-type]  # any file will do where it is not the newer exporter
                input_names=["lr"],
                output_names=["sr"],
                dynamic_axes=free,
                dynamo=False,
            )
        session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        return lambda pixels: _with_arrays(lambda lr: session.run(["sr"], {"lr": lr})[0], pixels)

    return opened


_ONNX = ("onnxruntime", "onnx")
_OPENVINO = ("openvino",)


def _dat_light(task: Task) -> Enlarge:
    """DAT-light (Chen et al. 2023): one group of 18 blocks, 60 channels, 573 K parameters for x4; untrained."""
    from spandrel.architectures.DAT import DAT  # type: ignore[import-not-found,import-untyped,unused-ignore]

    numbers = {"embed_dim": 60, "split_size": [8, 32], "depth": [18], "num_heads": [6], "expansion_factor": 2}
    net = DAT(**numbers, upscale=task.scale, resi_connection="3conv", upsampler="pixelshuffledirect").eval()
    device = pick_device(task.device)
    run = net.to(device)

    def enlarge(pixels: Pixels) -> Pixels:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of its use of torch
            return _through(lambda lr: run(lr).clamp(0, 1), pixels, device)

    return enlarge


def _with_arrays(run: Callable[[np.ndarray], np.ndarray], pixels: Pixels) -> Pixels:
    lr = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / 255
    return np.ascontiguousarray(np.rint(run(lr)[0] * 255).astype(np.uint8).transpose(1, 2, 0))


CONTENDERS: Mapping[str, Contender] = {
    "plain": Contender("the net as scripts run it: eager, channels first, fp32", _plain),
    "refsr": Contender("fp32, exact", _refsr("fp32"), own=True),
    "refsr-bf16": Contender("bfloat16 but for what enlarges", _refsr("bf16"), own=True),
    "refsr-compiled-bf16": Contender(
        "bfloat16, compiled first", _refsr("bf16", compile=True), own=True, when_named=True
    ),
    "plain+": Contender("plain, mean of eight orientations", _plain_ensemble, passes=8, when_named=True),
    "refsr+": Contender(
        "fp32, mean of eight orientations", _refsr("fp32", self_ensemble=True), own=True, passes=8, when_named=True
    ),
    "refsr+bf16": Contender(
        "bfloat16, mean of eight orientations",
        _refsr("bf16", self_ensemble=True),
        own=True,
        passes=8,
        when_named=True,
    ),
    "onnxruntime": Contender("fp32", _onnxruntime(), needs=_ONNX, on_cpu_only=True),
    "onnxruntime-folded": Contender(
        "fp32, on the net folded as refsr folds it",
        _onnxruntime(folded=True),
        needs=_ONNX,
        folded=True,
        on_cpu_only=True,
    ),
    "openvino": Contender("fp32", _openvino("f32"), needs=_OPENVINO, on_cpu_only=True),
    "openvino-folded": Contender(
        "fp32, on the folded net", _openvino("f32", folded=True), needs=_OPENVINO, folded=True, on_cpu_only=True
    ),
    "openvino-bf16": Contender("bfloat16", _openvino("bf16"), needs=_OPENVINO, on_cpu_only=True),
    "openvino-folded-bf16": Contender(
        "bfloat16, on the folded net", _openvino("bf16", folded=True), needs=_OPENVINO, folded=True, on_cpu_only=True
    ),
    "dat-light": Contender(
        "DAT-light, a transformer of 573 K parameters, as spandrel runs it",
        _dat_light,
        needs=("spandrel",),
        runs_net=False,
        trained=False,
    ),
    "opencv": Contender("bicubic interpolation", _bicubic, needs=("cv2",), runs_net=False, on_cpu_only=True),
}
"""In the order in which they are shown; `plain` is what the others are compared with."""


def fitting(device: str) -> list[str]:
    """The contenders that can run here: installed, and for that device."""
    chosen = pick_device(device)
    fast_half = pick_precision("auto", chosen) == torch.bfloat16
    return [
        name
        for name, its in CONTENDERS.items()
        if its.installed and (fast_half or not name.endswith("bf16")) and (chosen.type == "cpu" or not its.on_cpu_only)
    ]


def operations(task: Task, *, folded: bool) -> float:
    """Floating-point operations of the layers for one pixel of the input, counted as the net is run: what enlarges as
    one convolution where it is `folded`, without the search for places in references."""
    from torch.utils.flop_counter import FlopCounterMode

    model, side = net_of(task).double(), 96  # torch counts its own calls, and those of float32 may be fused
    lr = torch.rand(1, 3, side, side, dtype=torch.float64)
    with torch.inference_mode():
        guide = [model.look(lr, [])] if model.needs_ref else []
        run: Callable[..., Tensor] = fast(model, border=False) if folded and model.foldable else model
        run(lr, *guide)  # folds
        counter = FlopCounterMode(display=False)
        with counter:
            run(lr, *guide)
    return float(counter.get_total_flops()) / side**2

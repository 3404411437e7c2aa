"""ONNX: writes a model as two graphs, and runs them by onnxruntime as a model of the torch engine.

encoder.onnx: `source`, `mask` -> `memory.*`, `state.*` (before the first step).
decoder.onnx: `tokens` (B, K), `memory.*`, `state.*` (B, K, …) -> `logits` (R, V), `next.*` (R, …)
and, where the model has any, `attention` (R, S). K is a separate axis, since a graph cannot be
told that R is a multiple of B.
"""

# B sentences, K hypotheses of each, R = B·K rows, S source, T target, C positions so far, V vocabulary

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Config
from ..models.base import Maps, Memory, Seq2Seq, State, named_tensors, with_tensors
from ..models.transformer import TransformerState
from ..support.errors import UserError, require
from ..text.codec import Codec
from ..text.vocab import EOS
from .torch_engine import TorchEngine

USAGE = """
Without mtcli: `encoder.onnx` maps `source` (sentences × tokens: ids, counted from 0 in the files
tokenizer/*.vocabulary.json, 3 at the end) and `mask` (true where there is a token) to `memory.*` and the
first `state.*`. `decoder.onnx` maps `tokens` (sentences × hypotheses: 2 at first, then what was written
last), `state.*` (sentences × hypotheses × …) and `memory.*` to `logits` and `next.*`, which is the next
step's `state.*`.
"""

# ------------------------------------------------------------------------------------------ running


def load_engine(
    path: Path, config: Config, codecs: Sequence[Codec], device: str, threads: int | None
) -> TorchEngine:
    """The torch engine over an exported model. Raises UserError."""
    if device not in ("auto", "cpu"):
        raise UserError(f"--device is '{device}'; exported to ONNX, a model runs on cpu.")
    model = OnnxModel(path, config, len(codecs[1].vocabulary), threads)
    return TorchEngine(model, torch.device("cpu"), name=str(path.resolve()))


@dataclass
class OnnxMemory(Memory):
    tensors: list[Tensor]
    """What the encoder's graph gives, the first State too."""


@dataclass
class OnnxState(State):
    tensors: list[Tensor]


class OnnxModel(Seq2Seq):
    """A model run by onnxruntime. What is in its tensors, only the graphs know."""

    def __init__(self, path: Path, config: Config, target_size: int, threads: int | None):
        super().__init__()
        self.encode_graph = _session(path / "encoder.onnx", threads)
        self.step_graph = _session(path / "decoder.onnx", threads)
        self.memory = [each.name for each in self.encode_graph.get_outputs()]
        self.state = [name for name in self.memory if name.startswith("state.")]
        self.inputs = {each.name for each in self.step_graph.get_inputs()}
        written = {each.name: each.shape for each in self.step_graph.get_outputs()}
        after = {name.replace("state.", "next.", 1) for name in self.state}
        given = {each.name for each in self.encode_graph.get_inputs()}
        fit = given == {"source", "mask"} and self.inputs <= {"tokens", *self.memory}
        if not fit or not {"logits"} | after <= written.keys():
            raise UserError(f"{path}: encoder.onnx and decoder.onnx are not of one export.")
        if written["logits"][-1:] != [target_size]:
            raise UserError(
                f"{path}: the target vocabulary has {target_size} tokens, the model {written['logits'][-1:]}."
            )
        form = config.model
        if form.type == "transformer" and form.positions == "learned":
            self.max_positions = form.max_positions

    def encode(self, source: Tensor, source_mask: Tensor) -> OnnxMemory:
        found = _run(self.encode_graph, {"source": source, "mask": source_mask})
        return OnnxMemory(source_mask, list(found.values()))

    def init_state(self, memory: Memory) -> OnnxState:
        assert isinstance(memory, OnnxMemory)
        named = dict(zip(self.memory, memory.tensors))
        return OnnxState(0, [named[name] for name in self.state])

    def decode_step(
        self, tokens: Tensor, state: State, memory: Memory, maps: Maps | None = None
    ) -> tuple[Tensor, OnnxState]:
        assert isinstance(state, OnnxState) and isinstance(memory, OnnxMemory)
        rows = {"tokens": tokens, **dict(zip(self.state, state.tensors))}
        sentences = len(memory.mask)
        given = dict(zip(self.memory, memory.tensors))
        given |= {name: each.unflatten(0, (sentences, -1)) for name, each in rows.items()}
        found = _run(self.step_graph, {name: given[name] for name in self.inputs})
        if maps is not None and "attention" in found:
            maps["cross.mean"] = found["attention"][:, None, None]  # (R, S) -> (R, 1, 1, S)
        after = [found[name.replace("state.", "next.", 1)] for name in self.state]
        return found["logits"], OnnxState(state.position + 1, after)

    def forward(
        self, source: Tensor, source_mask: Tensor, target_in: Tensor, maps: Maps | None = None
    ) -> Tensor:
        """Teacher forcing, step by step: logits (B, T, V) take the place of states."""
        memory = self.encode(source, source_mask)
        state, steps, seen = self.init_state(memory), [], []
        for tokens in target_in.unbind(1):
            step: Maps = {}
            logits, state = self.decode_step(tokens, state, memory, step)
            steps.append(logits)
            seen.append(step)
        if maps is not None:
            maps |= {name: torch.cat([step[name] for step in seen], 2) for name in seen[0]}
        return torch.stack(steps, 1)

    def project(self, states: Tensor) -> Tensor:
        return states


def _session(path: Path, threads: int | None) -> Any:
    onnxruntime = require("onnxruntime", "export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has many types of them
        raise UserError(f"{path}: onnxruntime cannot load this: {error}") from None


def _run(session: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    try:
        outputs = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    except Exception as error:  # it has many types of them
        raise UserError(f"onnxruntime cannot run this model: {error}") from None
    names = [each.name for each in session.get_outputs()]
    return {name: torch.from_numpy(value) for name, value in zip(names, outputs)}


# ------------------------------------------------------------------------------------------ writing


class EncoderGraph(nn.Module):
    """source, mask (B, S) -> the tensors of Memory and of the first State."""

    def __init__(self, model: Seq2Seq):
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        memory = self.model.encode(*tensors)
        state = self.model.init_state(memory)
        return [*named_tensors(memory).values(), *named_tensors(state).values()]


class DecoderGraph(nn.Module):
    """tokens (B, K), the tensors of a State (B, K, …) and of Memory -> logits (R, V), the next
    State's, attention (R, S): the mean over heads of the last layer's. state, memory: examples,
    whose tensors are replaced."""

    def __init__(self, model: Seq2Seq, state: State, memory: Memory):
        super().__init__()
        self.model, self.state, self.memory = model, state, memory

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        names = list(named_tensors(self.state))
        tokens, *rows = (tensor.flatten(0, 1) for tensor in tensors[: 1 + len(names)])
        state = with_tensors(self.state, dict(zip(names, rows)))
        if isinstance(state, TransformerState):
            length = state.caches[0].keys.shape[2]  # caches are full in a graph
            caches = [replace(each, length=length) for each in state.caches]
            state = TransformerState(length, caches)
        given = dict(zip(named_tensors(self.memory), tensors[1 + len(names) :]))
        memory = with_tensors(self.memory, given)
        maps: Maps = {}
        logits, state = self.model.decode_step(tokens, state, memory, maps)
        cross = [weights.mean(1)[:, 0] for name, weights in maps.items() if "cross." in name]
        return [logits, *named_tensors(state).values(), *cross[-1:]]


def write(model: Seq2Seq, folder: Path) -> None:
    """encoder.onnx and decoder.onnx, for any B, K, S and C."""
    # All sizes differ, so that tracing takes no two for the same.
    sentences, hypotheses, past = 3, 2, 4
    source = torch.full((sentences, 5), EOS)
    longer = torch.full((sentences, 7), EOS)
    with torch.no_grad():
        memory = model.encode(source, torch.ones_like(source, dtype=torch.bool))
        other = model.encode(longer, torch.ones_like(longer, dtype=torch.bool))
        state = model.init_state(memory)
        attends = model.alignment(source, memory.mask, source) is not None
    inputs = {"source": source, "mask": memory.mask}
    memories, others = named_tensors(memory, "memory"), named_tensors(other, "memory")
    sizes = {name: {0: "B", 1: "S"} for name in inputs}
    for name, one in memories.items():
        varying = [axis for axis in range(one.dim()) if one.shape[axis] != others[name].shape[axis]]
        sizes[name] = {0: "B", **dict.fromkeys(varying, "S")}
    rows, row_sizes = {"tokens": source[:, 0]}, {"tokens": {0: "B", 1: "K"}}
    for name, tensor in named_tensors(state, "state").items():
        cached = [axis + 1 for axis, size in enumerate(tensor.shape) if size == 0]  # positions
        rows[name] = tensor.new_zeros([size or past for size in tensor.shape])
        row_sizes[name] = {0: "B", 1: "K", **dict.fromkeys(cached, "C")}
    states = list(rows)[1:]
    first_sizes = {name: {0: "B"} for name in states}
    outputs = [*memories, *states]
    _write_graph(EncoderGraph(model), inputs, outputs, sizes | first_sizes, folder / "encoder.onnx")
    graph = DecoderGraph(model, with_tensors(state, rows, "state"), memory)
    rows = {name: torch.stack([each] * hypotheses, 1) for name, each in rows.items()}
    outputs = ["logits", *(name.replace("state.", "next.", 1) for name in states)]
    outputs += ["attention"] * attends
    _write_graph(graph, rows | memories, outputs, sizes | row_sizes, folder / "decoder.onnx")


def _write_graph(
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: list[str],
    sizes: dict[str, dict[int, str]],
    path: Path,
) -> None:
    """Trace a module over named tensors; sizes: the axes whose sizes vary, by name. Raises UserError
    where PyTorch cannot keep these variable."""
    onnx = require("onnx", "export")
    logging.disable(logging.WARNING)  # the exporter talks about itself at length
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes={"tensors": tuple(sizes[name] for name in inputs)},
                input_names=list(inputs),
                output_names=outputs,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(
            "PyTorch cannot export this model to ONNX. Transformers and recurrent models with "
            "model.attention can be exported."
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    assert program is not None
    graph = program.model_proto
    # Sizes inferred inside are removed: those of a recurrent layer are wrong where they vary.
    del graph.graph.value_info[:]
    for output in graph.graph.output:
        for axis, name in sizes.get(output.name, {}).items():
            output.type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(graph, str(path))

"""ONNX: writes a model as two graphs, and runs them by onnxruntime as a model of the torch engine.

encoder.onnx: `source`, `mask` -> `memory.*`, `state.*` (before the first step).
decoder.onnx: `tokens` (B, K), `memory.*`, `state.*` (B, K, …) -> `logits` (R, V), `next.*` (R, …)
and, where the model has any, `attention` (R, S). K is an axis of its own, since a graph cannot be
told that R is a multiple of B.
"""

# B sentences, K hypotheses of each, R = B·K rows, S source, T target, C positions so far, V vocabulary

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config, Transformer
from ..models.base import Memory, Seq2Seq, State
from ..models.transformer import TransformerSeq2Seq
from ..support.errors import UserError, require
from ..text.vocab import EOS
from .torch_engine import TorchEngine

USAGE = """\
Without mtcli: `encoder.onnx` maps `source` (sentences × tokens: ids, counted from 0 in the files
tokenizer/*.vocabulary.json, 3 at the end) and `mask` (true where there is a token) to `memory.*` and the
first `state.*`. `decoder.onnx` maps `tokens` (sentences × hypotheses: 2 at first, then what was written
last), `state.*` (sentences × hypotheses × …) and `memory.*` to `logits` and `next.*`, which is the next
step's `state.*`.
"""

# ------------------------------------------------------------------------------------------ running


def load_engine(path: Path, config: Config, device: str, threads: int | None) -> TorchEngine:
    """The torch engine over an exported model. Raises UserError."""
    if device not in ("auto", "cpu"):
        raise UserError(f"--device is '{device}'; exported to ONNX, a model runs on cpu.")
    model = OnnxModel(path, config, threads)
    return TorchEngine(model, torch.device("cpu"), name=str(path.resolve()))


class OnnxModel(Seq2Seq):
    """A model run by onnxruntime, to the contract of models/base.py as far as an engine needs it.

    Memory and State are the graphs' tensors by name; Memory carries the first state along.
    """

    def __init__(self, path: Path, config: Config, threads: int | None):
        super().__init__()
        self.encoder_session = _session(path / "encoder.onnx", threads)
        self.decoder_session = _session(path / "decoder.onnx", threads)
        self.inputs = {each.name for each in self.decoder_session.get_inputs()}
        form = config.model
        learned = isinstance(form, Transformer) and form.positions == "learned"
        self.max_positions = form.max_positions if learned else None

    def encode(self, source: Tensor, source_mask: Tensor) -> Memory:
        return _run(self.encoder_session, {"source": source, "mask": source_mask})

    def init_state(self, memory: Memory) -> State:
        return {name: tensor for name, tensor in memory.items() if name.startswith("state.")}

    def decode_step(
        self, tokens: Tensor, state: State, memory: Memory, attention: bool = False
    ) -> tuple[Tensor, State, Tensor | None]:
        sentences = len(next(iter(memory.values())))
        rows = {"tokens": tokens, **state}
        given = memory | {name: each.unflatten(0, (sentences, -1)) for name, each in rows.items()}
        given = {name: tensor for name, tensor in given.items() if name in self.inputs}
        values = _run(self.decoder_session, given)
        logits, weights = values.pop("logits"), values.pop("attention", None)
        state = {name.replace("next.", "state.", 1): tensor for name, tensor in values.items()}
        return logits, state, weights if attention else None

    def forward(self, source: Tensor, source_mask: Tensor, target_in: Tensor) -> Tensor:
        """Teacher forcing, step by step: logits (B, T, V) take the place of states."""
        memory = self.encode(source, source_mask)
        state, steps = self.init_state(memory), []
        for tokens in target_in.unbind(1):
            logits, state, _ = self.decode_step(tokens, state, memory)
            steps.append(logits)
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
    outputs = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
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
        return [*memory.values(), *_first_state(self.model, memory).values()]


class DecoderGraph(nn.Module):
    """tokens (B, K), the tensors of a State (B, K, …) and of Memory -> logits (R, V), the next
    State, attention."""

    def __init__(self, model: Seq2Seq, state: Sequence[str], memory: Sequence[str]):
        super().__init__()
        self.model, self.state, self.memory = model, state, memory

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        tokens, *state = (tensor.flatten(0, 1) for tensor in tensors[: 1 + len(self.state)])
        memory = dict(zip(self.memory, tensors[1 + len(state) :]))
        logits, after, weights = _step(self.model, tokens, dict(zip(self.state, state)), memory)
        return [logits, *after.values(), *([] if weights is None else [weights])]


def _first_state(model: Seq2Seq, memory: Memory) -> State:
    """As `init_state`, but a Transformer's is the past of each hypothesis by itself: its length is
    the position."""
    state = model.init_state(memory)
    if not isinstance(model, TransformerSeq2Seq):
        return state
    return {name: tensor for name, tensor in state.items() if name.startswith("past_")}


def _step(
    model: Seq2Seq, tokens: Tensor, state: State, memory: Memory
) -> tuple[Tensor, State, Tensor | None]:
    """As `decode_step` with attention, over the State of `_first_state`."""
    if not isinstance(model, TransformerSeq2Seq):
        return model.decode_step(tokens, state, memory, attention=True)
    rows, _, position, _ = state["past_keys.0"].shape
    past = {name: F.pad(tensor, (0, 0, 0, 1)) for name, tensor in state.items()}
    unseen = past["past_keys.0"].new_zeros(rows, position + 1)
    states, weights = model.step_at()(position, position, tokens, past, unseen, memory, True)
    return model.project(states), past, weights


def write(model: Seq2Seq, folder: Path) -> None:
    """encoder.onnx and decoder.onnx, for any B, K, S and C.

    Tracing learns which sizes vary by their names, given here; they are found by encoding two
    sources of different lengths.
    """
    # All sizes differ, so that tracing takes no two for the same.
    sentences, hypotheses, past = 3, 2, 4
    with torch.no_grad():
        source, memory = _example(model, sentences, 5)
        _, longer = _example(model, sentences, 7)
        state = _first_state(model, memory)
    sizes = {f"memory.{name}": _varying(memory[name], longer[name]) for name in memory}
    _write_graph(
        EncoderGraph(model),
        {"source": source, "mask": torch.ones_like(source, dtype=torch.bool)},
        {"source": {0: "B", 1: "S"}, "mask": {0: "B", 1: "S"}},
        {**sizes, **{f"state.{name}": {0: "B"} for name in state}},
        folder / "encoder.onnx",
    )
    state_sizes = {f"state.{name}": {0: "B", 1: "K"} for name in state}
    for name in state:
        if name.startswith("past_"):  # (B, G, 0, D)
            state[name] = F.pad(state[name], (0, 0, 0, past))
            state_sizes[f"state.{name}"][3] = "C"
    with torch.no_grad():
        attends = _step(model, source[:, 0], state, memory)[2] is not None
    given = {"tokens": source[:, 0], **{f"state.{name}": each for name, each in state.items()}}
    given = {name: torch.stack([each] * hypotheses, 1) for name, each in given.items()}
    given |= {f"memory.{name}": tensor for name, tensor in memory.items()}
    outputs = ["logits", *(f"next.{name}" for name in state), *["attention"] * attends]
    _write_graph(
        DecoderGraph(model, list(state), list(memory)),
        given,
        {"tokens": {0: "B", 1: "K"}, **state_sizes, **sizes},
        {name: {} for name in outputs},
        folder / "decoder.onnx",
    )


def _example(model: Seq2Seq, sentences: int, length: int) -> tuple[Tensor, Memory]:
    source = torch.full((sentences, length), EOS)
    return source, model.encode(source, torch.ones_like(source, dtype=torch.bool))


def _varying(one: Tensor, longer: Tensor) -> dict[int, str]:
    """The names of a Memory tensor's axes that vary, given those of sources of two lengths."""
    differs = (axis for axis in range(one.dim()) if one.shape[axis] != longer.shape[axis])
    return {0: "B", **dict.fromkeys(differs, "S")}


def _write_graph(
    module: nn.Module,
    inputs: dict[str, Tensor],
    sizes: dict[str, dict[int, str]],
    outputs: dict[str, dict[int, str]],
    path: Path,
) -> None:
    """Trace a module over named tensors. sizes, outputs: the axes whose sizes vary, by name."""
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
                output_names=list(outputs),
                verbose=False,
            )
    finally:
        logging.disable(logging.NOTSET)
    assert program is not None
    graph = program.model_proto
    # Sizes inferred inside are removed: those of a recurrent layer are wrong where they vary.
    del graph.graph.value_info[:]
    for output in graph.graph.output:
        for axis, name in outputs[output.name].items():
            output.type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(graph, str(path))

"""Our own models as an engine: sequences of ids in, hypotheses or log-probabilities out. Knows no text and no files."""

# B sentences, R rows (hypotheses), S source, N target positions, H hidden, V vocabulary

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

from ..config import Decoding, Recurrent, Transformer
from ..models import build_model
from ..models.base import Memory, Seq2Seq, State, Step
from ..models.batches import Sequences, padded_batch
from ..models.layers import kernels_for
from ..run.checkpoint import load_into
from ..run.directory import Run
from ..support import devices, processes as pools
from ..support.errors import UserError
from ..text.vocab import BOS, EOS, PAD, UNK
from .engines import Found
from .search import search

FAST_WIDTH = 16  # source positions, at least, of a batch: softmax over fewer takes ten times as long on the CPU
MOST_PROCESSES = 16  # of those that translate a file: of some thousand lines at a time more would have too few each
PROJECTED = 1024  # target positions whose logits are held at once when translations are scored


class Uninitialised(TorchFunctionMode):
    """Modules built within get no random numbers: those of a trained model come from its checkpoint.

    Besides being wasted work they would be dear on the meta device, where PyTorch loads its compiler for them (1 s).
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (
            torch.nn.init.normal_,
            torch.nn.init.uniform_,
            Tensor.normal_,
            Tensor.uniform_,
        ):
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def describe(config: Recurrent | Transformer, sizes: Sequence[int]) -> Seq2Seq:
    """The model that a config describes, names and shapes without memory. Raises UserError where it cannot exist."""
    try:
        with torch.device("meta"), Uninitialised():
            return build_model(config, *sizes)
    except RuntimeError as error:
        raise UserError(f"The config describes a model of an impossible size: {error}.") from None


def turn_weights(model: nn.Module) -> None:
    """Lay the weights of a decoder's linear layers out as products of few rows read them, inputs first; shapes and values
    stay the same.

    A sentence by itself takes 0.87 of the time, greedily, a file 0.97. An encoder's many rows would take 1.1 times.
    """
    encoder = set(model.encoder.modules())
    for module in model.modules():
        if isinstance(module, nn.Linear) and module not in encoder:
            # Its own copy, where an embedding shares it, which wants it as it was.
            module.weight = nn.Parameter(
                module.weight.detach().t().contiguous().t(), requires_grad=False
            )


class Ensemble(Seq2Seq):
    """Several models as one: the mean of their probabilities. They may be of different kinds, over one vocabulary.

    Its states are those of its members side by side, its Memory and State hold theirs as ``member/name``. Its attention
    is the mean over those members that have any.
    """

    def __init__(self, members: Sequence[Seq2Seq]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.max_positions = min(
            (m.max_positions for m in members if m.max_positions is not None), default=None
        )

    def forward(self, source: Tensor, source_mask: Tensor, target_in: Tensor) -> Tensor:
        return torch.cat(
            [member(source, source_mask, target_in) for member in self.members], dim=-1
        )

    def project(self, states: Tensor) -> Tensor:
        widths = [member.projection.in_features for member in self.members]
        return _mean(
            [
                member.project(part)
                for member, part in zip(self.members, states.split(widths, dim=-1))
            ]
        )

    def encode(self, source: Tensor, source_mask: Tensor) -> Memory:
        return _joined([member.encode(source, source_mask) for member in self.members])

    def init_state(self, memory: Memory) -> State:
        return _joined(
            [member.init_state(_own(memory, index)) for index, member in enumerate(self.members)]
        )

    def reorder(self, state: State, rows: Tensor, sentences: Tensor | None = None) -> State:
        parts = (
            member.reorder(_own(state, index), rows, sentences)
            for index, member in enumerate(self.members)
        )
        return _joined(list(parts))

    def decode_step(
        self, tokens: Tensor, state: State, memory: Memory, attention: bool = False
    ) -> tuple[Tensor, State, Tensor | None]:
        return self.stepper()(tokens, state, memory, attention)

    def stepper(self) -> Step:
        steps = [member.stepper() for member in self.members]

        def step(
            tokens: Tensor, state: State, memory: Memory, attention: bool = False
        ) -> tuple[Tensor, State, Tensor | None]:
            made = [
                each(tokens, _own(state, index), _own(memory, index), attention)
                for index, each in enumerate(steps)
            ]
            logits, states, weights = zip(*made)
            seen = [each for each in weights if each is not None]
            return _mean(logits), _joined(states), torch.stack(seen).mean(0) if seen else None

        return step


def _mean(logits: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of several models' probabilities, (…, V) each."""
    return torch.stack([each.log_softmax(-1) for each in logits]).logsumexp(0) - math.log(
        len(logits)
    )


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{index}/{name}": tensor
        for index, part in enumerate(parts)
        for name, tensor in part.items()
    }


def _own(tensors: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    start = f"{index}/"
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }


class ModelEngine:
    """Searches and scores with one model, or an ensemble, on one device; with ``processes``, in so many at once.

    ``trained``: its weights stay as they are, so that what a step keeps at hand serves every search (0.3 ms each).
    """

    def __init__(
        self,
        model: Seq2Seq,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        name: str = "",
        processes: int = 1,
        trained: bool = False,
    ):
        self.model, self.device, self.autocast, self.name = model, device, autocast, name
        self.kept = threading.local() if trained else None
        self.processes = processes
        self.pool = pools.Pool(processes, _become, (self,), fork=True) if processes > 1 else None
        self.positions = (
            model.max_positions
        )  # tokens of the longest sentence, EOS included; None: no limit

    @classmethod
    def load(cls, runs: Sequence[Run], sizes: Sequence[int], device: torch.device) -> ModelEngine:
        """The best checkpoint of each run, whose vocabularies have ``sizes`` tokens; several are an ensemble.

        Raises UserError. What a checkpoint declares is held against the config before anything of either's size is
        allocated.
        """
        models, names = [], []
        for run in runs:
            form = describe(run.config.model, sizes)
            saved = run.load_checkpoint("best", training=False, model=form)
            with Uninitialised():
                model = build_model(run.config.model, *sizes)
            load_into(model, saved.model)
            models.append(model.to(device).eval())
            if device.type == "cpu":
                turn_weights(model)
            names.append(f"{run.path.resolve()}, checkpoint {saved.update}")
        # Cores that share the products of small models wait for each other: each by itself, two take 0.85 of the time.
        several = device.type == "cpu" and pools.possible()
        processes = min(torch.get_num_threads(), MOST_PROCESSES) if several else 1
        model = models[0] if len(models) == 1 else Ensemble(models).eval()
        autocast, _ = devices.autocast(device, runs[0].config.training.precision)
        return cls(model, device, autocast, " + ".join(names), processes, trained=True)

    def search_all(self, batches: Sequence[dict[str, Any]]) -> Iterator[list[list[Found]]]:
        """`search` with each of several sets of arguments, in order, as many at a time as there are processes."""
        if self.pool and len(batches) > 1:
            return self.pool.map(_search, batches)
        return (self.search(**arguments) for arguments in batches)

    def search(
        self,
        sources: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        n_best: int = 1,
        attention: bool = False,
        keys: Sequence[int] | None = None,
        prefix: Sequence[int] = (),
    ) -> list[list[Found]]:
        """The best hypotheses of each source, all of which are one batch. ``keys`` tell the sentences' noise apart.

        ``prefix`` begins every hypothesis. Raises UserError where the model has too few positions for it.
        """
        rows = Sequences.of(sources)
        ids, mask = (torch.from_numpy(x).to(self.device) for x in rows.padded())
        if len(rows) > 1:
            missing = max(0, min(FAST_WIDTH, self.model.max_positions or FAST_WIDTH) - ids.shape[1])
            ids, mask = pad(ids, (0, missing), value=PAD), pad(mask, (0, missing))
        lengths = torch.from_numpy(rows.lengths - 1).to(self.device)  # EOS not counted
        maximum = (lengths * decoding.max_length_ratio).long() + decoding.max_length_offset
        if self.model.max_positions is not None:
            maximum = maximum.clamp(max=self.model.max_positions - 1)
            if len(prefix) >= self.model.max_positions:
                most = self.model.max_positions - 1
                raise UserError(f"The prefix has {len(prefix)} tokens; the model writes {most}.")
        with torch.inference_mode(), self.autocast():
            with kernels_for(ids.numel()):
                memory = self.model.encode(ids, mask)
            found = search(
                self._step(),
                self.model.reorder,
                memory,
                self.model.init_state(memory),
                bos=BOS,
                eos=EOS,
                banned=[PAD, BOS] if decoding.generate_unknown else [PAD, BOS, UNK],
                min_lengths=torch.minimum(
                    (lengths * decoding.min_length_ratio).ceil().long(), maximum
                ),
                max_lengths=maximum,
                beam_size=decoding.beam_size,
                n_best=n_best,
                length_penalty=decoding.length_penalty,
                look_ahead=decoding.look_ahead,
                sampling=decoding.sampling,
                keys=torch.tensor(
                    keys if keys is not None else range(len(rows)), device=self.device
                ),
                no_repeat_ngram=decoding.no_repeat_ngram,
                prefix=prefix,
                attention=attention,
            )
        return [
            [
                Found(
                    each.tokens,
                    each.log_probability,
                    each.score,
                    None if each.attention is None else each.attention[:, : len(source)].tolist(),
                )
                for each in hypotheses
            ]
            for source, hypotheses in zip(sources, found)
        ]

    def _step(self) -> Step:
        """The step of this search: a step remembers which sentence it is at, so that each thread has its own."""
        if self.kept is None:
            return self._stepper()
        if not hasattr(self.kept, "step"):
            self.kept.step = self._stepper()
        return self.kept.step

    def _stepper(self) -> Step:
        model_step = self.model.stepper()

        def step(
            tokens: Tensor, state: State, memory: Memory, attention: bool
        ) -> tuple[Tensor, State, Tensor | None]:
            with kernels_for(len(tokens)):
                return model_step(tokens, state, memory, attention)

        return step

    def score(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probability of every id of each target, which ends in EOS (forced decoding), all as one batch."""
        batch = padded_batch(Sequences.of(sources), Sequences.of(targets)).to(self.device)
        with torch.inference_mode(), self.autocast():
            states = self.model(batch.source, batch.source_mask, batch.target_in)[
                batch.target_mask
            ]  # (N, H)
            exact = torch.promote_types(states.dtype, torch.float32)
            scores = []
            for part, ids in zip(
                states.split(PROJECTED), batch.target_out[batch.target_mask].split(PROJECTED)
            ):
                log_probabilities = self.model.project(part).log_softmax(dim=-1, dtype=exact)
                scores.append(log_probabilities.gather(1, ids[:, None])[:, 0])
            return [
                part.tolist()
                for part in torch.cat(scores).split([len(target) for target in targets])
            ]


_engine: ModelEngine  # in a process of a pool: the one that it inherited


def _become(engine: ModelEngine) -> None:
    """What a process of a pool does first. OpenMP's threads are not copied with a process."""
    global _engine
    _engine = engine
    torch.set_num_threads(1)


def _search(arguments: dict[str, Any]) -> list[list[Found]]:
    return _engine.search(**arguments)

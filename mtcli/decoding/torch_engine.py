"""Our own models as an engine, and ensembles of them."""

# B sentences, R rows (hypotheses), S source, T target, H hidden, V vocabulary

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..config import Recurrent, Transformer
from ..models import build_model
from ..models.base import Maps, Memory, Seq2Seq, State, mean_attention
from ..models.batches import Sequences, padded_batch
from ..run.directory import Run
from ..support import devices
from ..support.errors import UserError
from ..support.processes import Pool, can_fork
from ..text.vocab import BOS, EOS, PAD, UNK
from .engine import Hypothesis, Ids, Inside, Maps as PairMaps, Request
from .search import SearchOptions, Step, search

MOST_PROCESSES = 16  # that translate a file: with more, each has too few of some thousand lines
PROJECTED = 1024  # target positions whose logits are held at once when translations are scored


def describe(config: Recurrent | Transformer, sizes: Sequence[int]) -> Seq2Seq:
    """The model of a config and of vocabularies of these sizes, on the meta device: names and shapes
    without memory. Raises UserError where it cannot exist."""
    try:
        with torch.device("meta"):
            return build_model(config, *sizes)
    except RuntimeError as error:
        raise UserError(f"The config describes a model of an impossible size: {error}.") from None


def load_model(run: Run, sizes: Sequence[int], checkpoint: str | int) -> tuple[Seq2Seq, int]:
    """The model of a checkpoint, for inference on the CPU, and its update. What the checkpoint
    declares is checked against the config before memory of either's size is taken."""
    model = describe(run.config.model, sizes)
    saved = run.load_checkpoint(checkpoint, training=False, model=model)
    names = sorted(state := model.state_dict(keep_vars=True), reverse=True)
    first = {id(state[name]): name for name in names}  # under which a tied table was saved
    tensors = {name: saved.model[first[id(each)]] for name, each in state.items()}
    model.load_state_dict(tensors, assign=True)  # the names of a tied table share its memory
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.startswith("encoder."):
            # Inputs first in memory: on the CPU faster for the few rows of a step.
            weight = module.weight.detach().t().contiguous().t()
            module.weight = nn.Parameter(weight, requires_grad=False)
    return model.requires_grad_(False).eval(), saved.update


class Ensemble(Seq2Seq):
    """Several models as one: the mean of their probabilities. They may be of different kinds, over
    the same vocabularies. Their states are concatenated; their Memories and States are lists."""

    def __init__(self, members: Sequence[Seq2Seq]):
        super().__init__()
        self.members = list(members)
        self.modules_of_members = nn.ModuleList(members)
        limits = [m.max_positions for m in members if m.max_positions is not None]
        self.max_positions = min(limits, default=None)

    def forward(
        self, source: Tensor, source_mask: Tensor, target_in: Tensor, maps: Maps | None = None
    ) -> Tensor:
        states, means = [], []
        for member in self.members:
            own: Maps | None = None if maps is None else {}
            states.append(member(source, source_mask, target_in, own))
            means += [mean_attention(own)] if own else []
        found = [mean for mean in means if mean is not None]
        if maps is not None and found:
            maps["cross.mean"] = torch.stack(found).mean(0).unsqueeze(1)
        return torch.cat(states, -1)

    def project(self, states: Tensor) -> Tensor:
        widths = [member.projection.in_features for member in self.members]
        parts = states.split(widths, dim=-1)
        return _mean([member.project(part) for member, part in zip(self.members, parts)])

    def encode(self, source: Tensor, source_mask: Tensor) -> EnsembleMemory:
        parts = [member.encode(source, source_mask) for member in self.members]
        return EnsembleMemory(source_mask, parts)

    def init_state(self, memory: Memory) -> EnsembleState:
        assert isinstance(memory, EnsembleMemory)
        pairs = zip(self.members, memory.parts)
        return EnsembleState(0, [member.init_state(part) for member, part in pairs])

    def decode_step(
        self, tokens: Tensor, state: State, memory: Memory, maps: Maps | None = None
    ) -> tuple[Tensor, EnsembleState]:
        assert isinstance(state, EnsembleState) and isinstance(memory, EnsembleMemory)
        triples = zip(self.members, state.parts, memory.parts)
        steps = [member.decode_step(tokens, own, source) for member, own, source in triples]
        logits, states = zip(*steps)
        return _mean(logits), EnsembleState(state.position + 1, list(states))


@dataclass
class EnsembleMemory(Memory):
    parts: list[Memory]


@dataclass
class EnsembleState(State):
    parts: list[State]


def _mean(logits: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of several models' probabilities, (…, V) each."""
    return torch.stack([each.log_softmax(-1) for each in logits]).logsumexp(0) - math.log(
        len(logits)
    )


class TorchEngine:
    """Searches and scores with one model, or an ensemble, on one device.

    With ``processes``, `search_all` works on as many requests at once, each in a process of one
    thread that is forked from this one at the first call. Holds nothing that a call changes.
    """

    def __init__(
        self,
        model: Seq2Seq,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        name: str = "",
        processes: int = 1,
    ):
        self.model, self.device, self.autocast, self.name = model, device, autocast, name
        self.max_positions, self.parallel = model.max_positions, processes
        self.batch_tokens = 4000 if device.type == "cpu" else 16_000
        self.pool = Pool(processes, _serve, (self,), fork=True) if processes > 1 else None

    @classmethod
    def load(
        cls,
        runs: Sequence[Run],
        sizes: Sequence[int],
        device: torch.device,
        processes: int = 1,
        checkpoint: str | int = "best",
    ) -> TorchEngine:
        """A checkpoint of each run, whose vocabularies have ``sizes`` tokens; several are an
        ensemble. Raises UserError."""
        loaded = [load_model(run, sizes, checkpoint) for run in runs]
        models = [model.to(device) for model, _ in loaded]
        autocast, lower = devices.autocast(device, runs[0].config.training.precision)
        if lower is not None:  # see _inference
            models = [model.requires_grad_() for model in models]
        names = [f"{run.path.resolve()}, checkpoint {n}" for run, (_, n) in zip(runs, loaded)]
        model = models[0] if len(models) == 1 else Ensemble(models).eval()
        several = device.type == "cpu" and can_fork()
        processes = min(processes, MOST_PROCESSES) if several else 1
        return cls(model, device, autocast, " + ".join(names), processes)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Autocast converts a weight once in it, not at each use: only of parameters that could be
        trained, and outside of PyTorch's inference mode, does it keep what it converted."""
        lower = self.autocast is not nullcontext
        with torch.no_grad() if lower else torch.inference_mode(), self.autocast():
            yield

    def search_all(self, requests: Iterable[Request]) -> Iterator[list[list[Hypothesis]]]:
        requests = list(requests)
        if self.pool is None or len(requests) == 1:
            return map(self.search, requests)
        return self.pool.map(_search, requests)

    def search(self, request: Request, trail: list[Step] | None = None) -> list[list[Hypothesis]]:
        """As in `Engine`. ``trail`` is filled with all steps and what was pruned, where it is given."""
        ids, mask = (
            torch.from_numpy(x).to(self.device) for x in Sequences.of(request.sources).padded()
        )
        options = replace(self._options(request), keep_pruned=trail is not None)
        devices.choose_products(self.device, len(ids) * max(options.beam_size, options.n_best))
        with self._inference():
            found = search(self.model, self.model.encode(ids, mask), options, trail)
        return self._with_attention(request.sources, found) if request.attention else found

    def _options(self, request: Request) -> SearchOptions:
        decoding, lengths = request.decoding, request.lengths(self.max_positions)
        return SearchOptions(
            bos=BOS,
            eos=EOS,
            min_lengths=[least for least, _ in lengths],
            max_lengths=[most for _, most in lengths],
            banned=[PAD, BOS] if decoding.generate_unknown else [PAD, BOS, UNK],
            beam_size=decoding.beam_size,
            n_best=request.n_best,
            length_penalty=decoding.length_penalty,
            look_ahead=decoding.look_ahead,
            sampling=decoding.sampling,
            keys=request.keys,
            no_repeat_ngram=decoding.no_repeat_ngram,
            prefix=request.prefix,
        )

    def _with_attention(
        self, sources: Ids, found: list[list[Hypothesis]]
    ) -> list[list[Hypothesis]]:
        """The hypotheses with what each of their tokens looked at, by teacher forcing."""
        done: list[list[Hypothesis]] = [[] for _ in found]
        for rank in range(max(map(len, found))):
            rows = [row for row, hypotheses in enumerate(found) if rank < len(hypotheses)]
            pairs = [sources[row] for row in rows], [found[row][rank].ids for row in rows]
            batch = padded_batch(Sequences.of(pairs[0]), Sequences.of(pairs[1])).to(self.device)
            with self._inference():
                weights = self.model.alignment(batch.source, batch.source_mask, batch.target_in)
            tables = [None] * len(rows) if weights is None else weights.float().cpu()
            for row, source, target, each in zip(rows, *pairs, tables):
                table = None if each is None else each[: len(target), : len(source)].tolist()
                done[row].append(replace(found[row][rank], attention=table))
        return done

    def score(self, sources: Ids, targets: Ids) -> list[list[float]]:
        batch = padded_batch(Sequences.of(sources), Sequences.of(targets)).to(self.device)
        devices.choose_products(self.device, batch.source.numel())
        scores = []
        with self._inference():
            states = self.model(batch.source, batch.source_mask, batch.target_in)
            states, ids = batch.of_targets(states), batch.of_targets(batch.target_out)
            exact = torch.promote_types(states.dtype, torch.float32)
            for part, chosen in zip(states.split(PROJECTED), ids.split(PROJECTED)):
                log_probs = self.model.project(part).log_softmax(dim=-1, dtype=exact)
                scores.append(log_probs.gather(1, chosen[:, None])[:, 0])
        lengths = [len(ids) for ids in targets]
        return [part.tolist() for part in torch.cat(scores).cpu().split(lengths)]

    def maps(self, sources: Ids, targets: Ids) -> list[PairMaps]:
        batch = padded_batch(Sequences.of(sources), Sequences.of(targets)).to(self.device)
        maps: Maps = {}
        with self._inference():
            self.model(batch.source, batch.source_mask, batch.target_in, maps)
        maps = _fetched(maps)
        return [
            _of_pair(maps, row, *map(len, pair)) for row, pair in enumerate(zip(sources, targets))
        ]

    def inside(self, source: Sequence[int], target: Sequence[int], best: int) -> Inside:
        batch = padded_batch(Sequences.of([source]), Sequences.of([target])).to(self.device)
        maps: Maps = {}
        with self._inference():
            states = self.model(batch.source, batch.source_mask, batch.target_in, maps)[0]
            exact = torch.promote_types(states.dtype, torch.float32)
            log_probs = self.model.project(states).log_softmax(-1, dtype=exact)  # (T, V)
        chosen = log_probs.gather(1, batch.target_out[0][:, None])
        values, ids = log_probs.topk(min(best, log_probs.shape[1]))
        return Inside(
            log_probabilities=chosen[:, 0].tolist(),
            maps=_of_pair(_fetched(maps), 0, len(source), len(target)),
            ranks=((log_probs > chosen).sum(1) + 1).tolist(),
            entropies=torch.special.entr(log_probs.exp()).sum(1).tolist(),
            best=[list(zip(*pair)) for pair in zip(ids.tolist(), values.tolist())],
        )


def _fetched(maps: Maps) -> Maps:
    return {name: weights.float().cpu() for name, weights in maps.items()}


def _of_pair(maps: Maps, row: int, source: int, target: int) -> PairMaps:
    """The fetched maps of one row of a batch, without the padding behind its source and target ids."""
    lengths = {"encoder": (source, source), "decoder": (target, target), "cross": (target, source)}
    tables = {}
    for name, weights in maps.items():
        rows, columns = lengths[name.split(".")[0]]
        tables[name] = weights[row, :, :rows, :columns].numpy()
    return tables


# ------------------------------------------------------------------------------ in a process of the pool

_engine: TorchEngine  # of a process that serves


def _serve(engine: TorchEngine) -> None:
    global _engine
    _engine = engine
    torch.set_num_threads(1)  # OpenMP's threads are not copied with a process


def _search(request: Request) -> list[list[Hypothesis]]:
    return _engine.search(request)

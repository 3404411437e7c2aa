"""The laws of mtcli/models/base.py, for every registered kind of model, in every combination of any three options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from kinds import VOCABULARY, build, kinds, parameters
from torch import Tensor

from mtcli.config import Recurrent, Transformer
from mtcli.models import MODELS, build_model
from mtcli.models.attention import ATTENTIONS
from mtcli.models.base import Maps, Memory, Rows, Seq2Seq, State, named_tensors, with_tensors
from mtcli.models.gru import CELLS
from mtcli.models.positions import POSITIONS
from mtcli.support.errors import UserError

LENGTHS = [5, 2, 1, 4]  # of the source sentences
TARGET = 6  # tokens of every target prefix


@pytest.fixture(params=[each for kind in kinds().values() for each in parameters(kind)])
def config(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def model(config: Any) -> Seq2Seq:
    return build(config)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Source ids with garbage for padding, the mask, and target prefixes; a source of one token is among them."""
    generator = torch.Generator().manual_seed(2)
    source = torch.randint(VOCABULARY, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return source, mask, torch.randint(VOCABULARY, (len(LENGTHS), TARGET), generator=generator)


@pytest.fixture(autouse=True)
def no_gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


def copied(rows: Rows) -> Any:
    """`decode_step` may write into the State that it is given."""
    return with_tensors(rows, {key: tensor.clone() for key, tensor in named_tensors(rows).items()})


def unroll(
    model: Seq2Seq, memory: Memory, state: State, tokens: Tensor
) -> tuple[Tensor, dict[str, Tensor], State]:
    """Step through tokens (R, T) -> logits (R, T, V), attention by name (R, A, T, S), the last State."""
    logits, maps = [], []
    for column in tokens.unbind(1):
        maps.append({})
        step, state = model.decode_step(column, state, memory, maps[-1])
        logits.append(step)
    room = max(tensor.shape[3] for step in maps for tensor in step.values()) if maps[0] else 0

    def padded(tensor: Tensor) -> Tensor:  # room for what is decoded later
        return torch.nn.functional.pad(tensor, (0, room - tensor.shape[3]))

    together = {name: torch.cat([padded(step[name]) for step in maps], 2) for name in maps[0]}
    return torch.stack(logits, 1), together, state


def start(
    model: Seq2Seq, source: Tensor, mask: Tensor, hypotheses: int = 1
) -> tuple[Memory, State]:
    """Memory of B sentences and State of K·B hypotheses, adjacent."""
    memory = model.encode(source, mask)
    rows = torch.arange(len(source)).repeat_interleave(hypotheses)
    return memory, model.init_state(memory).select(rows)


def same(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


# -------------------------------------------------------------------------------------------------------------- laws


def test_teacher_forcing_equals_steps(model: Seq2Seq, batch: tuple[Tensor, ...]) -> None:
    source, mask, target = batch
    states = model(source, mask, target)
    assert states.shape[:2] == target.shape
    logits, _, _ = unroll(model, *start(model, source, mask), target)
    assert logits.shape == (*target.shape, VOCABULARY)
    same(model.project(states), logits)


def test_every_source_token_matters_and_padding_does_not(
    model: Seq2Seq, batch: tuple[Tensor, ...]
) -> None:
    source, mask, target = batch
    states = model(source, mask, target)
    logits, _, _ = unroll(model, *start(model, source, mask), target)

    same(model(torch.where(mask, source, (source + 1) % VOCABULARY), mask, target), states)
    wider = torch.cat((source, torch.full((len(source), 3), 7)), 1)
    wider_mask = torch.cat((mask, torch.zeros(len(source), 3, dtype=torch.bool)), 1)
    same(model(wider, wider_mask, target), states)
    same(unroll(model, *start(model, wider, wider_mask), target)[0], logits)

    for position in range(LENGTHS[0]):
        changed = source.clone()
        changed[0, position] = (changed[0, position] + 1) % VOCABULARY
        difference = (model(changed, mask, target) - states).abs()
        assert difference[0, 0].max() > 1e-6
        assert difference[1:].max() == 0


def test_a_state_knows_its_prefix_and_nothing_after(
    model: Seq2Seq, batch: tuple[Tensor, ...]
) -> None:
    source, mask, target = batch
    changed = target.clone()
    changed[:, 3] = (changed[:, 3] + 1) % VOCABULARY
    difference = (model(source, mask, changed) - model(source, mask, target)).abs()
    assert difference[:, :3].max() < 1e-12
    assert (difference[:, 3:].amax(2) > 1e-9).all()


def test_a_sentence_does_not_depend_on_its_batch(
    config: Any, model: Seq2Seq, batch: tuple[Tensor, ...]
) -> None:
    source, mask, target = batch
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        model.to(dtype)
        forced = model.project(model(source, mask, target)).log_softmax(-1)
        stepped = unroll(model, *start(model, source, mask), target)[0].log_softmax(-1)
        for row, length in enumerate(LENGTHS):
            alone = source[row : row + 1, :length], mask[row : row + 1, :length]
            prefix = target[row : row + 1]
            same(model.project(model(*alone, prefix)).log_softmax(-1)[0], forced[row], tolerance)
            same(
                unroll(model, *start(model, *alone), prefix)[0].log_softmax(-1)[0],
                stepped[row],
                tolerance,
            )


def test_hypotheses_of_a_sentence_do_not_depend_on_its_batch(
    model: Seq2Seq, batch: tuple[Tensor, ...]
) -> None:
    """Three of each, which swap places at every step, for longer than a cache grows at once."""
    source, mask, _ = batch
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(VOCABULARY, (18, len(source), 3), generator=generator)
    moves = torch.randint(3, (18, len(source), 3), generator=generator)

    def decode(source: Tensor, mask: Tensor, tokens: Tensor, moves: Tensor) -> list[Tensor]:
        memory, state = start(model, source, mask, 3)
        steps = []
        for column, move in zip(tokens, moves):
            logits, state = model.decode_step(column.flatten(), state, memory)
            state = state.select((move + 3 * torch.arange(len(source))[:, None]).flatten())
            steps.append(logits)
        return steps

    together = decode(source, mask, tokens, moves)
    for row, length in enumerate(LENGTHS):
        part = slice(row, row + 1)
        alone = decode(source[part, :length], mask[part, :length], tokens[:, part], moves[:, part])
        for logits, expected in zip(alone, together):
            same(logits, expected[3 * row : 3 * row + 3])


def test_the_laws_hold_in_bf16(model: Seq2Seq, batch: tuple[Tensor, ...]) -> None:
    """Within its rounding: against float64, in steps, with padding, and with hypotheses that change places."""
    source, mask, target = (each.repeat_interleave(2, 0) for each in batch)
    target = (target + torch.arange(len(target))[:, None]) % VOCABULARY  # two a sentence
    exact = model.project(model(source, mask, target)).log_softmax(-1)
    wider, wider_mask = torch.nn.functional.pad(source, (0, 3), value=7), mask.new_zeros(8, 8)
    wider_mask[:, : mask.size(1)] = mask
    rows = torch.tensor([1, 0, 2, 2, 5, 4, 6, 6])  # each within its own sentence
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        forced = model.project(model(source, mask, target))
        padded = model.project(model(wider, wider_mask, target))
        memory, state = start(model, *batch[:2], 2)
        first, _, state = unroll(model, memory, state, target[:, :3])
        second, _, _ = unroll(model, memory, state.select(rows), target[rows, 3:])
    assert forced.dtype is torch.bfloat16
    steps = torch.cat((first[rows], second), 1)
    for logits, expected in ((forced, exact), (padded, exact), (steps, exact[rows])):
        same(logits.double().log_softmax(-1), expected, 0.1)


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_bf16_trains_every_parameter_in_float32(kind: str, batch: tuple[Tensor, ...]) -> None:
    source, mask, target = batch
    model = build(kinds()[kind](dropout=0.3, hidden_size=8)).float().train()
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        model.project(model(source, mask, target)).float().square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.dtype is torch.float32 and parameter.grad.isfinite().all()


def test_dimension_0_is_the_row(model: Seq2Seq, batch: tuple[Tensor, ...]) -> None:
    """Of a Memory a row is a sentence, of a State a hypothesis; what is the same for all is a number."""
    source, mask, target = batch
    memory, state = start(model, source, mask, 3)
    assert all(len(tensor) == len(source) for tensor in named_tensors(memory).values())
    assert type(state.position) is int and state.position == 0
    _, state = model.decode_step(target[:, 0].repeat_interleave(3), state, memory)
    assert named_tensors(state)
    assert all(len(tensor) == 3 * len(source) for tensor in named_tensors(state).values())
    assert type(state.position) is int and state.position == 1


def test_named_tensors_make_the_same_rows_again(model: Seq2Seq, batch: tuple[Tensor, ...]) -> None:
    memory, state = start(model, *batch[:2])
    for rows in (memory, state):
        other = with_tensors(rows, {key: tensor + 1 for key, tensor in named_tensors(rows).items()})
        assert type(other) is type(rows)
        for key, tensor in named_tensors(other).items():
            assert torch.equal(tensor, named_tensors(rows)[key] + 1)


def test_a_shared_memory_gives_what_a_repeated_one_gives(
    model: Seq2Seq, batch: tuple[Tensor, ...]
) -> None:
    source, mask, _ = batch
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(VOCABULARY, (3 * len(source), TARGET), generator=generator)
    shared, state = start(model, source, mask, 3)
    repeated = shared.select(torch.arange(len(source)).repeat_interleave(3))
    before = copied(shared)
    logits, maps, _ = unroll(model, shared, copied(state), tokens)
    expected, expected_maps, _ = unroll(model, repeated, copied(state), tokens)
    same(logits, expected)
    assert maps.keys() == expected_maps.keys()
    for name in maps:
        same(maps[name], expected_maps[name])
    for key, tensor in named_tensors(shared).items():
        assert torch.equal(tensor, named_tensors(before)[key]), f"a step wrote into Memory's {key}"


def test_choosing_hypotheses_commutes_with_stepping(
    model: Seq2Seq, batch: tuple[Tensor, ...]
) -> None:
    source, mask, target = batch
    memory, state = start(model, source, mask, 2)
    prefix, next_tokens = target.repeat_interleave(2, 0)[:, :3], torch.arange(2 * len(source))
    prefix[::2] = (prefix[::2] + 1) % VOCABULARY
    _, _, state = unroll(model, memory, state, prefix)
    rows = torch.tensor([1, 1, 3, 2, 4, 4, 7, 6])  # each within its own sentence
    logits, stepped = model.decode_step(next_tokens, copied(state), memory)
    expected, expected_state = model.decode_step(next_tokens[rows], state.select(rows), memory)
    same(logits[rows], expected)
    more = target[:, 4].repeat_interleave(2)
    logits, _ = model.decode_step(more, stepped.select(rows), memory)
    same(logits, model.decode_step(more, expected_state, memory)[0])


def test_dropping_sentences_commutes_with_stepping(
    model: Seq2Seq, batch: tuple[Tensor, ...]
) -> None:
    source, mask, target = batch
    memory, state = start(model, source, mask, 2)
    _, _, state = unroll(model, memory, state, target.repeat_interleave(2, 0)[:, :3])
    tokens = torch.arange(2 * len(source))
    logits, _ = model.decode_step(tokens, copied(state), memory)
    kept, rows = torch.tensor([3, 1]), torch.tensor([6, 7, 2, 3])
    fewer, _ = model.decode_step(tokens[rows], state.select(rows), memory.select(kept))
    same(fewer, logits[rows])


def test_attention_is_over_real_tokens_and_the_same_in_steps(
    config: Any, model: Seq2Seq, batch: tuple[Tensor, ...]
) -> None:
    source, mask, target = batch
    maps: Maps = {}
    model(source, mask, target, maps)
    layers = getattr(config, "decoder_layers", 1) if isinstance(config, Transformer) else 1
    if getattr(config, "attention", None) == "none":
        assert not maps and model.alignment(source, mask, target) is None
        return
    cross = [name for name in maps if name.startswith("cross.")]
    assert cross == [f"cross.{layer}" for layer in range(layers)]
    for name, weights in maps.items():
        queries = source.size(1) if name.startswith("encoder") else TARGET
        assert weights.shape[0] == len(source) and weights.shape[2] == queries
        same(weights.sum(3), torch.ones(weights.shape[:3], dtype=torch.float64))
        if not name.startswith("decoder"):
            to_source = weights.permute(0, 3, 1, 2)  # (B, S, A, T)
            assert (to_source[~mask] == 0).all() and (to_source[mask] > 0).all()
    _, stepped, _ = unroll(model, *start(model, source, mask), target)
    assert stepped.keys() == {name for name in maps if not name.startswith("encoder")}
    for name, weights in stepped.items():
        same(weights[..., : maps[name].size(3)], maps[name])
    same(model.alignment(source, mask, target), maps[cross[-1]].mean(1))


def test_a_model_on_the_meta_device_has_the_same_names_and_takes_no_memory(
    config: Any, model: Seq2Seq
) -> None:
    with torch.device("meta"):
        form = build_model(config, VOCABULARY, VOCABULARY)
    shapes = {name: parameter.shape for name, parameter in form.named_parameters()}
    assert all(parameter.is_meta for parameter in form.parameters())
    assert shapes == {name: parameter.shape for name, parameter in model.named_parameters()}


def test_gradients_reach_every_parameter(model: Seq2Seq, batch: tuple[Tensor, ...]) -> None:
    source, mask, target = batch
    logits = model.project(model(source, mask, target))
    torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), target[:, 1:].flatten()
    ).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, (
            f"{key} learns nothing"
        )


def test_dropout_acts_in_training_only(model: Seq2Seq, batch: tuple[Tensor, ...]) -> None:
    states = model(*batch)
    assert torch.equal(model(*batch), states)
    model.train()
    assert not torch.equal(model(*batch), model(*batch))


def test_tied_tables_are_one(config: Any, model: Seq2Seq) -> None:
    tables = [
        parameter
        for parameter in model.parameters()
        if parameter.dim() == 2 and VOCABULARY in parameter.shape
    ]
    assert len(tables) == {"none": 3, "target": 2, "all": 1}[config.tied_embeddings]


# ---------------------------------------------------------------------------------------------------- single models


def options(kind: Any, key: str) -> set[str]:
    return set(get_args(kind.model_fields[key].annotation))


def test_registries_hold_what_the_config_names() -> None:
    assert set(MODELS) == set(kinds())
    assert set(ATTENTIONS) == options(Recurrent, "attention") - {"none"}
    assert set(CELLS) == options(Recurrent, "cell")
    assert set(POSITIONS) == options(Transformer, "positions")


@pytest.mark.parametrize("cell", sorted(options(Recurrent, "cell")))
def test_a_step_by_hand_is_the_fused_one(cell: str) -> None:
    layer = CELLS[cell](5, 4, batch_first=True).double()
    inputs, state = (
        torch.randn(3, 6, 5, dtype=torch.float64),
        torch.randn(3, layer.parts * 4, dtype=torch.float64),
    )
    outputs, last = layer(inputs, state)
    for step in range(6):
        gates = torch.nn.functional.linear(inputs[:, step], layer.weight_ih_l0, layer.bias_ih_l0)
        output, state = layer.step(gates, state)
        same(output, outputs[:, step])
        same(state[:, :4], output)
    same(state, last)


def test_additive_attention_is_that_of_the_paper(batch: tuple[Tensor, ...]) -> None:
    """v·tanh(W q + U k), softmax over real tokens, mean of the values (Bahdanau et al. 2015, A.1.2)."""
    mask = batch[1]
    attention = ATTENTIONS["additive"](8).double()
    queries, values = torch.randn(len(LENGTHS), 3, 8).double(), torch.randn(*mask.shape, 8).double()
    context, weights = attention(queries, attention.keys(values), values, mask)
    for row, length in enumerate(LENGTHS):
        for query in range(3):
            pairs = torch.tanh(
                attention.from_query(queries[row, query])
                + attention.from_value(values[row, :length])
            )
            expected = (pairs @ attention.v.weight[0]).softmax(0)
            same(weights[row, query, :length], expected, 1e-12)
            same(context[row, query], expected @ values[row, :length], 1e-12)


def test_the_backward_encoder_starts_at_the_last_real_token(batch: tuple[Tensor, ...]) -> None:
    """Against nn.GRU's own second direction on a sentence without padding."""
    source, mask, _ = batch
    model = build(Recurrent(hidden_size=8, embedding_size=6, attention="dot"))
    forward, backward = model.encoder.layers[0], model.encoder.backward_layers[0]
    both = torch.nn.GRU(6, 4, batch_first=True, bidirectional=True).double()
    weights = {key: tensor for key, tensor in forward.state_dict().items()}
    both.load_state_dict(
        weights | {f"{key}_reverse": tensor for key, tensor in backward.state_dict().items()}
    )
    for row, length in enumerate(LENGTHS):
        values = model.encode(source, mask).values[row, :length]
        same(values, both(model.source_embedding(source[row : row + 1, :length]))[0][0])


def test_vocabularies_that_cannot_share_a_table_are_refused() -> None:
    for config in (Recurrent(tied_embeddings="all"), Transformer(tied_embeddings="all")):
        with pytest.raises(
            UserError, match="source vocabulary has 9 tokens and the target vocabulary 8.*shared"
        ):
            build_model(config, 9, 8)

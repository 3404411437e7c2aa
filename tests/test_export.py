"""Exported models compute what the trained ones do, keep the translator's promises, and run without PyTorch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml

from mtcli import Translator, config as configs
from mtcli.decoding import ctranslate2 as written, exported as exports
from mtcli.decoding.exported import export, is_exported
from mtcli.models import build_model
from mtcli.run.checkpoint import to_tensors
from mtcli.run.directory import Run
from mtcli.support import files
from mtcli.support.errors import UserError
from mtcli.text import codec

ctranslate2 = pytest.importorskip("ctranslate2")

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [source for source, _ in tiny.pairs(300, seed=2)]


def make_run(folder: Path, model: dict[str, Any], tokenizer: dict[str, Any] | None = None) -> Run:
    """A run that was never trained: its weights are random, but so large that translations differ."""
    tiny.write(folder, train=200)
    values = tiny.config(folder)
    values["tokenizer"] = tokenizer or {"type": "char"}
    values["model"] = {
        **tiny.MODELS["transformer" if model.get("type") != "gru" else "gru"],
        **model,
    }
    (folder / "a.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    run = Run.create(folder / "run", "", configs.load(folder / "a.yaml"))
    codecs = codec.learn(run.config, lambda: tiny.pairs(200))
    run.save_tokenizers(lambda path: codec.save(path, *codecs))
    torch.manual_seed(0)
    built = build_model(run.config.model, *(len(side.vocabulary) for side in codecs))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(1.5) if parameter.dim() == 2 else parameter.add_(
                torch.randn_like(parameter) * 0.1
            )
        built.projection.bias[3] += 0.5  # some sentences end by themselves, others at their longest
    run.save_checkpoint(1, to_tensors(built), {}, {})
    run.record_data()
    return run


Pair = tuple[Translator, Translator, Path]


def exported(tmp_path: Path, model: dict[str, Any], tokenizer=None, **options: Any) -> Pair:
    """The translator of a run, and that of its export."""
    run = make_run(tmp_path, model, tokenizer)
    export(run, tmp_path / "out", **{"format": "ctranslate2", **options})
    return (
        Translator.load(run.path, "cpu"),
        Translator.load(tmp_path / "out", "cpu"),
        tmp_path / "out",
    )


def best(translations) -> list[tuple[str, list[str]]]:
    return [(each.text, each.hypotheses[0].tokens) for each in translations]


def scores(translations, name: str = "log_probability") -> list[float]:
    return [getattr(hypothesis, name) for each in translations for hypothesis in each.hypotheses]


# Every option of a Transformer's shape, each at least once.
SHAPES = [
    {},
    {"norm_position": "post", "activation": "gelu", "positions": "learned", "max_positions": 40},
    {"norm": "rms", "activation": "swiglu", "positions": "rotary"},
    {
        "norm": "rms",
        "norm_position": "post",
        "heads": 4,
        "key_value_heads": 2,
        "positions": "rotary",
    },
    {
        "heads": 4,
        "key_value_heads": 1,
        "encoder_layers": 2,
        "tied_embeddings": "none",
        "activation": "gelu",
    },
    {"decoder_layers": 3, "norm_position": "post", "positions": "learned", "activation": "swiglu"},
    {"hidden_size": 15, "heads": 3, "tied_embeddings": "none"},
]


@pytest.mark.parametrize(
    "shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())) or "default"
)
def test_every_transformer_computes_and_translates_the_same_in_ctranslate2(tmp_path, shape):
    ours, theirs, out = exported(tmp_path, shape)
    assert json.loads((out / "export.json").read_text())["parity"]["largest_difference"] <= 1e-4
    pairs = tiny.pairs(100, seed=3)
    for one, other in zip(ours.score(pairs), theirs.score(pairs), strict=True):
        assert other == pytest.approx(one, abs=1e-4)
    greedy = [each.translate(SOURCES, beam_size=1, max_length_offset=4) for each in (ours, theirs)]
    assert best(greedy[0]) == best(greedy[1])
    assert scores(greedy[0]) == pytest.approx(scores(greedy[1]), abs=1e-3)
    assert len({each.text for each in greedy[0]}) > 10


def test_one_vocabulary_and_one_table_for_both_sides(tmp_path):
    tokenizer = {"type": "subword", "shared": True, "vocabulary_size": 300, "lowercase": True}
    ours, theirs, _ = exported(tmp_path, {"tied_embeddings": "all"}, tokenizer)
    assert best(ours.translate(SOURCES, beam_size=1)) == best(
        theirs.translate(SOURCES, beam_size=1)
    )


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Pair:
    return exported(
        tmp_path_factory.mktemp("export"), {"encoder_layers": 2, "heads": 4, "key_value_heads": 2}
    )


@pytest.mark.parametrize("penalty", ["none", "average", "gnmt"])
def test_scores_of_n_best_are_those_of_forced_decoding_by_the_trained_model(three, penalty):
    ours, theirs, _ = three
    found = theirs.translate(SOURCES[:60], n_best=4, length_penalty={"type": penalty, "alpha": 0.8})
    for each in found:
        texts = [hypothesis.text for hypothesis in each.hypotheses]
        assert 1 <= len(texts) == len(set(texts)) <= 4
        assert scores([each], "score") == sorted(scores([each], "score"), reverse=True)
    pairs = [(each.source, hypothesis.tokens) for each in found for hypothesis in each.hypotheses]
    forced = list(ours.score(pairs))
    assert scores(found) == pytest.approx([sum(tokens) for tokens in forced], abs=1e-3)
    divisor = configs.LengthPenalty(type=penalty, alpha=0.8).divisor
    assert scores(found, "score") == pytest.approx(
        [sum(each) / divisor(len(each)) for each in forced], abs=1e-3
    )


def test_beam_search_finds_about_as_good_translations(three):
    ours, theirs, _ = three
    mean = [
        sum(scores(each.translate(SOURCES, beam_size=5), "score")) / len(SOURCES)
        for each in (ours, theirs)
    ]
    greedy = sum(scores(ours.translate(SOURCES, beam_size=1), "score")) / len(SOURCES)
    assert mean[1] > greedy and mean[1] == pytest.approx(mean[0], rel=0.05)


@pytest.mark.parametrize("options", [
    {"min_length_ratio": 1.0, "max_length_ratio": 1.0, "max_length_offset": 0},
    {"max_length_ratio": 0.5, "max_length_offset": 0},
    {"max_length_ratio": 0.0, "max_length_offset": 0},
    {"no_repeat_ngram": 2},
    {"generate_unknown": True},
    {"prefix": "AB"},
], ids=str)  # fmt: skip
def test_limits_are_each_sentences_own_and_options_mean_the_same(three, options):
    ours, theirs, _ = three
    greedy = [
        each.translate(SOURCES[:80], beam_size=1, attention=True, **options)
        for each in (ours, theirs)
    ]
    assert best(greedy[0]) == best(greedy[1])
    for one, other in zip(*greedy):
        attention = [torch.tensor(each.hypotheses[0].attention) for each in (one, other)]
        assert attention[1] == pytest.approx(attention[0], abs=1e-4)
    most = configs.Decoding(
        **{key: value for key, value in options.items() if key != "prefix"}
    ).lengths
    for beam in theirs.translate(SOURCES[:80], n_best=3, attention=True, **options):
        length = len(theirs.codecs[0].tokenize(beam.source))
        for each in beam.hypotheses:
            assert len(each.tokens) <= max(most(length)[1], len(options.get("prefix", "")))
            assert (
                len(each.attention) == len(each.tokens) + 1 and len(each.attention[0]) == length + 1
            )
            assert [sum(row) for row in each.attention] == pytest.approx(
                [1.0] * len(each.attention), abs=1e-4
            )


def test_a_result_does_not_depend_on_its_batch(three):
    _, theirs, _ = three
    whole = theirs.translate(SOURCES[:40], beam_size=3)
    alone = [theirs.translate([source], beam_size=3)[0] for source in SOURCES[:40]]
    assert best(whole) == best(alone)
    assert scores(whole) == pytest.approx(scores(alone), abs=1e-4)


def test_what_ctranslate2_cannot_do_is_refused_by_name(three, tmp_path):
    _, theirs, out = three
    with pytest.raises(UserError, match="--sample cannot"):
        theirs.translate(["a"], sampling={"temperature": 0.5})
    with pytest.raises(UserError, match="no device mps"):
        Translator.load(out, "mps")
    with pytest.raises(UserError, match="an ensemble is of runs"):
        Translator.load([out, out])
    with pytest.raises(UserError, match="this model is a gru: use --format onnx"):
        export(make_run(tmp_path, {"type": "gru"}), tmp_path / "new", "ctranslate2")
    assert not (tmp_path / "new").exists()


def test_a_sentence_beyond_the_learned_positions_is_refused_or_cut(tmp_path):
    ours, theirs, _ = exported(tmp_path, {"positions": "learned", "max_positions": 12})
    for translator in (ours, theirs):
        with pytest.raises(UserError, match="positions for 11"):
            next(translator.score([("a" * 20, "b")]))
        found = translator.translate(["abcdefabc", "f", "bed"], max_length_ratio=9.0)
        assert all(len(each.hypotheses[0].tokens) <= 11 for each in found)


@pytest.mark.parametrize("quantization", ["int8", "int16", "float16", "bfloat16"])
def test_quantized_models_are_smaller_and_close(three, tmp_path, quantization):
    ours, _, plain = three
    parity = export(Run(plain.parent / "run"), tmp_path / "out", "ctranslate2", quantization)
    assert 0 < parity.mean_difference <= exports.TOLERANCE[quantization]
    assert (tmp_path / "out/model.bin").stat().st_size < 0.9 * (plain / "model.bin").stat().st_size
    assert Translator.load(tmp_path / "out", "cpu").translate(["abc"])[0].text is not None


def test_an_export_that_differs_is_refused_and_leaves_nothing(three, tmp_path, monkeypatch):
    run = Run(three[2].parent / "run")
    monkeypatch.setitem(exports.TOLERANCE, "int8", 1e-9)
    with pytest.raises(UserError, match="does not compute what the trained one does"):
        export(run, tmp_path / "out", "ctranslate2", "int8")
    assert list(tmp_path.iterdir()) == []


def test_only_an_export_is_overwritten(three, tmp_path):
    run = Run(three[2].parent / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="was not made by mtcli export"):
        export(run, tmp_path / "mine", "ctranslate2")
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
    export(run, tmp_path / "out", "ctranslate2")
    (tmp_path / "out/old").write_text("")
    (tmp_path / ".out.123.aside/tokenizer").mkdir(parents=True)  # of one that was killed
    export(run, tmp_path / "out", "ctranslate2", "int8")
    assert is_exported(tmp_path / "out") and not (tmp_path / "out/old").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_what_is_missing_is_named(three, tmp_path, monkeypatch):
    run = Run(three[2].parent / "run")
    with pytest.raises(UserError, match="--format is 'tflite'; choose ctranslate2, onnx"):
        export(run, tmp_path / "out", "tflite")
    with pytest.raises(UserError, match="--quantization is 'int4'; choose none, int8"):
        export(run, tmp_path / "out", "ctranslate2", "int4")
    with pytest.raises(UserError, match="ONNX is written in float32"):
        export(run, tmp_path / "out", "onnx", "int8")
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(UserError, match=re.escape("pip install 'mtcli[export]'")):
        export(run, tmp_path / "out", "ctranslate2")
    with pytest.raises(UserError, match=re.escape("pip install 'mtcli[export]'")):
        Translator.load(three[2])


def sign(out: Path) -> None:
    """Make the checksums agree with the files, as somebody who changed them could."""
    manifest = json.loads((out / "export.json").read_text())
    manifest["files"] = {name: files.checksum(out / name) for name in manifest["files"]}
    (out / "export.json").write_text(json.dumps(manifest))


def reverse(path: Path) -> None:
    tokens = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(tokens[:4] + tokens[:3:-1]), encoding="utf-8")


def shorten(path: Path) -> None:
    tokens = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(tokens[:-2]), encoding="utf-8")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def refused(out: Path) -> str:
    with pytest.raises(UserError) as told:
        Translator.load(out, "cpu").translate(["abc"])
    return str(told.value)


def test_an_export_that_is_not_what_was_written_is_refused_by_name(three, tmp_path):
    _, _, out = three
    listed = json.loads((out / "export.json").read_text())["files"]
    assert listed.keys() > {"config.yaml", "model.bin", "tokenizer/target.vocabulary.json"}
    for number, name in enumerate(listed):
        copy = shutil.copytree(out, tmp_path / str(number))
        flip(copy / name)
        assert "another size or SHA-256" in refused(copy) and Path(name).name in refused(copy)
        (copy / name).unlink()
        assert f"{name}, which export.json lists, is missing" in refused(copy)
        (copy / name).symlink_to(out / name)
        assert "is a link" in refused(copy)
    copy = shutil.copytree(out, tmp_path / "more")
    manifest = json.loads((copy / "export.json").read_text())
    (copy / "export.json").write_text(json.dumps({**manifest, "files": {}}))
    assert "has a file that export.json does not list" in refused(copy)
    copy = shutil.copytree(out, tmp_path / "read")
    (copy / "README.md").write_text("mine")
    (copy / ".hidden").write_text("mine")
    assert Translator.load(copy, "cpu").translate(["abc"])[0].text is not None


@pytest.mark.parametrize("change", [reverse, shorten])
@pytest.mark.parametrize("name", ["source", "target"])
def test_vocabularies_are_those_of_the_model(three, tmp_path, change, name):
    copy = shutil.copytree(three[2], tmp_path / "out")
    change(copy / f"tokenizer/{name}.vocabulary.json")
    sign(copy)
    assert f"{name}_vocabulary.json is not the vocabulary in" in refused(copy)


def test_an_export_without_checksums_loads_with_a_note(three, tmp_path, caplog):
    copy = shutil.copytree(three[2], tmp_path / "out")
    manifest = json.loads((copy / "export.json").read_text())
    del manifest["files"]
    (copy / "export.json").write_text(json.dumps(manifest))
    assert Translator.load(copy, "cpu").translate(["abc"])[0].text is not None
    assert "no checksums" in caplog.text
    for text in ("{}", '{"format": "bread"}', '{"format": ["onnx"]}'):
        (copy / "export.json").write_text(text)
        assert "does not name its format" in refused(copy)


def test_unknown_keys_in_the_config_of_an_export_are_ignored_with_a_warning(
    three, tmp_path, caplog
):
    _, theirs, out = three
    shutil.copytree(out, tmp_path / "older")
    with open(tmp_path / "older/config.yaml", "a", encoding="utf-8") as file:
        file.write("unheard_of: 1\n")
    sign(tmp_path / "older")
    older = Translator.load(tmp_path / "older", "cpu")
    assert "unheard_of" in caplog.text
    assert best(older.translate(SOURCES[:5])) == best(theirs.translate(SOURCES[:5]))


def test_exported_models_clean_and_copy_as_the_trained_one(three):
    for translator in three[:2]:
        texts = [SOURCES[0], f"\u200b{SOURCES[0]}\u00a0", "😀  12", "\u200e"]
        found = [each.text for each in translator.translate(texts)]
        assert found[0] == found[1] and found[2:] == ["😀 12", ""]


def test_without_the_validation_files_random_tokens_are_compared(tmp_path, caplog):
    run = make_run(tmp_path, {})
    (tmp_path / "validation.tsv").unlink()
    assert export(run, tmp_path / "out", "ctranslate2").sentences == 100
    assert "random tokens" in caplog.text


# -------------------------------------------------------------------------------------------------------- without torch


def without_torch(program: str, folder: Path) -> str:
    """What a program prints where torch cannot be imported."""
    block = f"import sys\nsys.modules['torch'] = None\nsys.path.insert(0, {str(ROOT)!r})\n"
    command = [sys.executable, "-c", block + program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_command_line_needs_no_torch(three):
    _, theirs, out = three
    command = "from mtcli.cli import main\nsys.argv = ['mtcli', {}]\nmain()"
    line = without_torch(
        command.format("'translate', '--run', 'out', '--json', '--n-best', '2', 'abc'"), out.parent
    )
    expected = theirs.translate(["abc"], n_best=2, attention=True)[0]
    assert [each["text"] for each in json.loads(line)["hypotheses"]] == [
        each.text for each in expected.hypotheses
    ]
    rows = json.loads(line)["hypotheses"][0]["attention"]
    assert rows == [pytest.approx(row, abs=1e-4) for row in expected.hypotheses[0].attention]
    result = without_torch(command.format("'eval', '--run', 'out', '--json'"), out.parent)
    assert json.loads(result)["perplexity"] > 1


@pytest.mark.parametrize("tokenizer", [
    {"type": "char"},
    {"source": {"type": "word", "lowercase": True}, "target": {"type": "word"}},
    {"type": "subword", "shared": True, "vocabulary_size": 300, "normalization": "nfkc"},
], ids=["char", "word", "subword"])  # fmt: skip
def test_the_readme_of_an_export_shows_how_it_is_used_without_mtcli(tmp_path, tokenizer):
    _, theirs, out = exported(tmp_path, {}, tokenizer)
    code = re.search(
        r"```python\n(.*?)```", (out / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )[1]
    found = theirs.translate(SOURCES, beam_size=1, max_length_ratio=0.0, max_length_offset=8)
    sentence, text = next((each.source, each.text) for each in found if len(each.text) > 3)
    code = code.replace("A sentence.", sentence).replace(
        "beam_size=5", "beam_size=1, max_decoding_length=8"
    )
    printed = without_torch(code, out)
    assert printed == f"{text}\n"


@pytest.mark.parametrize(
    "text",
    ["(red) apples.", "it's 3.5%, isn't it?!", "a  b", '"no" - yes; well...', "naïve (co-op)"],
)
def test_the_readme_cuts_words_as_the_tokenizer_does(text):
    from mtcli.text.tokenizers import TOKENIZERS

    tokenizer = TOKENIZERS["word"](configs.Words())
    tokens = eval(written.CUT["word"], {"re": re, "text": text})
    assert tokens == tokenizer.tokenize(text)
    assert eval(written.JOIN["word"], {"tokens": tokens}) == tokenizer.detokenize(tokens)


# ---------------------------------------------------------------------------------------------------------------- ONNX


@pytest.mark.parametrize("model", [
    {"positions": "learned", "max_positions": 40, "heads": 4, "key_value_heads": 2},
    {"type": "gru", "encoder_layers": 2, "decoder_layers": 2},
], ids=["transformer", "gru"])  # fmt: skip
@pytest.mark.slow
def test_a_model_in_onnx_is_searched_like_ours(tmp_path, model):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    ours, theirs, _ = exported(tmp_path, model, format="onnx")
    pairs = tiny.pairs(60, seed=3)
    for one, other in zip(ours.score(pairs), theirs.score(pairs), strict=True):
        assert other == pytest.approx(one, abs=1e-4)
    for options in (
        {"beam_size": 1},
        {"n_best": 3},
        {"n_best": 2, "sampling": {"seed": 5}},
        {"no_repeat_ngram": 1},
    ):
        found = [each.translate(SOURCES[:60], attention=True, **options) for each in (ours, theirs)]
        assert best(found[0]) == best(found[1])
        assert scores(found[0]) == pytest.approx(scores(found[1]), abs=1e-3)
        for pair in zip(*found):
            attention = [torch.tensor(each.hypotheses[0].attention) for each in pair]
            assert attention[1] == pytest.approx(attention[0], abs=1e-4)
    out = tmp_path / "out"
    shorten(out / "tokenizer/target.vocabulary.json")
    sign(out)
    assert "the target vocabulary has" in refused(out)
    shutil.copy(out / "encoder.onnx", out / "decoder.onnx")
    sign(out)
    assert "not of one export" in refused(out)


def test_a_model_that_torch_cannot_trace_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)

    def fail(*_, **__):
        raise torch.onnx.errors.OnnxExporterError("tracing inferred a static shape")

    monkeypatch.setattr(torch.onnx, "export", fail)
    run = make_run(tmp_path, {"type": "gru", "attention": "none"})
    with pytest.raises(UserError, match="with model.attention can be exported"):
        export(run, tmp_path / "out", "onnx")
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))

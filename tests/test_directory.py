"""A run directory survives kills and full disks, has one training, and a stranger's one can do no harm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import YAML, config, contents, intact, make_run, snapshot

from mtcli.run.checkpoint import MANIFEST, MODEL
from mtcli.run.directory import Run
from mtcli.support import devices
from mtcli.support.errors import UserError

ROOT = Path(__file__).parents[1]
KILLS = int(
    os.environ.get("MTCLI_KILLS", 10)
)  # at random moments, beside those at every step of a save


@pytest.fixture
def run(tmp_path) -> Run:
    return make_run(tmp_path / "run")


# -------------------------------------------------------------------------------------------------- hostile directories


PARTS = [
    "config.yaml", "requested.yaml", "tokenizer", "tokenizer/shared.vocabulary.json", "log.jsonl", "best.json", "lock",
    "checkpoints", "checkpoints/2", f"checkpoints/2/{MODEL}", f"checkpoints/2/{MANIFEST}",
]  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_links_are_not_followed(run, tmp_path, part):
    elsewhere = tmp_path / "elsewhere"
    (run.path / part).rename(elsewhere)
    (run.path / part).symlink_to(elsewhere)

    def outside():
        return snapshot(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()

    before = outside()
    complaints = []
    for use in (
        lambda: Run.open(run.path).config,
        lambda: run.requested,
        lambda: Run.create(run.path, YAML, config(YAML.replace("10", "20"))),
        lambda: run.load_checkpoint(2, training=False),
        lambda: run.save_checkpoint(2, *contents(2)) if part == "checkpoints" else None,
        lambda: run.append_log({}),
        lambda: run.truncate_log(0),
        lambda: run.best,
    ):
        try:
            use()
        except UserError as error:
            complaints.append(str(error))
    assert any(f"{run.path / part} is a link" in text for text in complaints)
    assert outside() == before


def test_a_link_in_place_of_the_holders_number_is_replaced(run, tmp_path):
    (tmp_path / "precious").write_text("x")
    (run.path / "lock.pid").unlink()
    (run.path / "lock.pid").symlink_to(tmp_path / "precious")
    with run.lock():
        assert (run.path / "lock.pid").read_text() == str(os.getpid())
    assert (tmp_path / "precious").read_text() == "x"


@pytest.mark.parametrize("part", [part for part in PARTS if "." in part or part == "lock"])
def test_named_pipes_do_not_hang(run, part):
    (run.path / part).unlink()
    os.mkfifo(run.path / part)
    uses = (
        lambda: Run.open(run.path).config,
        lambda: run.requested,
        lambda: run.lock().__enter__(),
        lambda: run.load_checkpoint(2, training=False),
        run.read_log,
        lambda: run.append_log({}),
        lambda: run.best,
    )
    refused = 0
    for use in uses:
        try:
            use()
        except UserError as error:
            refused += 1
            assert str(run.path) in str(error)
    assert refused


@pytest.mark.parametrize(
    "name, data",
    [
        ("config.yaml", b"a" * (2 << 20)),
        ("config.yaml", b"[" * 100_000),
        ("config.yaml", b"\xff\xfe"),
        ("config.yaml", b"!!python/object/apply:os.system ['true']"),
        ("best.json", b"[" * 100_000),
        ("best.json", b'{"update": 1, "metric": "loss", "value": Infinity}'),
        ("best.json", b'{"update": "../..", "metric": "loss", "value": 1}'),
        ("log.jsonl", b"[" * 100_000 + b"\n"),
    ],
)
def test_other_hostile_files_are_refused(run, name, data):
    (run.path / name).write_bytes(data)
    run = Run.open(run.path)
    with pytest.raises(UserError, match=name):
        run.config, run.best, run.read_log()


@pytest.mark.skipif(os.name != "posix", reason="elsewhere it cannot be renamed")
def test_a_run_that_is_renamed_while_it_is_held_is_missed(run, tmp_path):
    with run.lock():
        run.append_log({"update": 1})
        run.path.rename(tmp_path / "elsewhere")
        for use in (lambda: run.append_log({}), lambda: run.save_checkpoint(9, *contents(9))):
            with pytest.raises(UserError, match="renamed or removed while"):
                use()
    assert not run.path.exists()


def test_a_tokenizer_folder_holds_files_of_a_sane_size(run):
    path = run.path / "tokenizer/huge"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(UserError, match="huge is not what it should be"):
        Run.open(run.path)


# ---------------------------------------------------------------------------------------------- making and finding runs


def test_a_run_goes_on_with_its_config_and_with_what_may_change(run):
    assert run.requested == YAML and Run.open(run.path).config == config()
    longer = YAML.replace("max_updates: 10", "max_updates: 20")
    assert Run.create(run.path, longer, config(longer)).config.training.max_updates == 20
    assert Run.open(run.path).config == config(longer) and run.requested == longer
    wider = YAML.replace("hidden_size: 8", "hidden_size: 16")
    before = snapshot(run.path)
    with pytest.raises(UserError, match=r"another config:\n(.*\n)*  model.hidden_size: 8 -> 16\n"):
        Run.create(run.path, wider, config(wider))
    assert snapshot(run.path) == before
    shutil.rmtree(run.path / "checkpoints")
    assert Run.create(run.path, wider, config(wider)).config == config(wider), (
        "nothing was trained yet"
    )
    assert not (run.path / "tokenizer").exists()


def test_what_is_no_run_is_told(run, tmp_path):
    with pytest.raises(UserError, match=f"no such directory. There is: {run.path}."):
        Run.open(tmp_path / "ran")
    with pytest.raises(UserError, match="lacks config.yaml, tokenizer, checkpoints"):
        Run.open(tmp_path)
    shutil.rmtree(run.path / "checkpoints")
    with pytest.raises(UserError, match="no model yet: it lacks checkpoints"):
        Run.open(run.path)
    (tmp_path / "file").write_text("")
    for use in (
        lambda: Run.open(tmp_path / "file"),
        lambda: Run.create(tmp_path / "file", YAML, config()),
    ):
        with pytest.raises(UserError, match=f"{tmp_path / 'file'}"):
            use()
    with pytest.raises(UserError):
        Run.open("name\0with NUL")


def test_the_latest_run_is_found_again(run, tmp_path):
    runs = tmp_path / "runs"
    with pytest.raises(UserError, match="No run has been trained here yet"):
        Run.latest(runs)
    run.mark_latest(runs)
    assert Run.latest(runs).path.samefile(run.path)
    inside = runs / "näme"
    shutil.copytree(run.path, inside)
    Run(inside).mark_latest(runs)
    assert (runs / "latest").read_text() == "näme\n" and Run.latest(runs).path == inside
    shutil.rmtree(inside)
    with pytest.raises(UserError, match="'näme', which is gone"):
        Run.latest(runs)
    (runs / "latest").write_bytes(b"\0\xff\n\n")
    with pytest.raises(UserError, match="which is gone"):
        Run.latest(runs)


# ------------------------------------------------------------------------------------------------------------------ log


def test_the_log_is_what_it_was_at_the_checkpoint(run):
    size = run.log_size()
    run.append_log({"update": 3, "text": "苹果\u2028\ud800\n", "perplexity": [float("inf")]})
    with open(run.path / "log.jsonl", "ab") as file:
        file.write(b'{"upda')  # torn by a kill
    third = {"update": 3, "text": "苹果\u2028\ud800\n", "perplexity": [None]}
    assert run.read_log() == [{"update": 1}, {"update": 2}, third]
    run.truncate_log(run.log_size())
    assert len(run.read_log()) == 3 and (run.path / "log.jsonl").read_bytes().endswith(b"\n")
    run.truncate_log(size)
    run.append_log({"update": 3})
    assert run.read_log() == [{"update": 1}, {"update": 2}, {"update": 3}]
    run.truncate_log(0)
    assert run.log_size() == 0 and run.read_log() == []
    run.truncate_log(0)


def test_a_log_that_lost_lines_is_told_and_goes_on(run, caplog):
    run.truncate_log(run.log_size() + 100)
    assert "lacks its last 100 bytes" in caplog.text and len(run.read_log()) == 2


def test_a_broken_line_of_the_log_is_named(run):
    (run.path / "log.jsonl").write_bytes(b'{"a": 1}\n{"a"\n{"a": 2}\n')
    with pytest.raises(UserError, match="log.jsonl:2 is not valid JSON"):
        run.read_log()


# --------------------------------------------------------------------------------------------- locks, kills, full disks


def python(code: str, *arguments, **options) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)


HOLD = """
import sys
from mtcli.run.directory import Run
with Run(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_living_training_locks_its_run_and_a_dead_one_does_not(run):
    holder = python(HOLD, run.path, stdin=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == "held\n"
        for use in (lambda: run.lock().__enter__(), lambda: Run.create(run.path, YAML, config())):
            with pytest.raises(
                UserError, match=f"Another training is running on .*run \\(process {holder.pid}\\)"
            ):
                use()
        assert intact(run.load_checkpoint("last", training=True), 2)  # reading is free
    finally:
        holder.kill()
        holder.communicate()
    with run.lock():
        assert (run.path / "lock.pid").read_text() == str(os.getpid())


FULL = """
import resource, sys, torch
from mtcli.run.directory import Run
from mtcli.support.errors import UserError
run = Run(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
with run.lock():
    for use in (
        lambda: run.save_checkpoint(3, {"weight": torch.zeros(10_000)}, {}, {}),
        lambda: run.append_log({"text": "x" * 30_000}),
        lambda: run.set_best({"update": 3, "metric": "x" * 30_000, "value": 1}),
        lambda: run.save_tokenizers(lambda folder: (folder / "source").write_bytes(bytes(30_000))),
    ):
        try:
            use()
        except UserError as error:
            print(error)
"""


def test_versions_are_recorded_where_they_change(run):
    for torch in ("1", "1", "2", "1"):
        run.record_versions({"torch": torch})
    lines = (run.path / "versions.jsonl").read_text().splitlines()
    assert [json.loads(line)["torch"] for line in lines] == ["1", "2", "1"]
    found = devices.versions(devices.choose("cpu"))
    assert found.keys() == {"mtcli", "torch", "python", "device", "processor"}
    assert found["device"] == "cpu" and found["processor"]


def test_a_checkpoint_is_chosen_by_name_or_number(run):
    for which, update in {"best": 1, "last": 2, "2": 2, 1: 1}.items():
        assert run.load_checkpoint(which, training=False).update == update
    for which in ("3", 3, "newest", "-1", "²", ""):
        with pytest.raises(
            UserError, match="has no checkpoint .*; choose best, last, or one of: 1, 2."
        ):
            run.load_checkpoint(which, training=False)


@pytest.mark.slow
def test_a_full_disk_is_told_and_loses_nothing(run):
    with run.lock():
        before = snapshot(run.path)
    out, _ = python(FULL, run.path).communicate(timeout=60)
    first, *rest = out.splitlines()
    assert first.startswith(
        f"{run.path}/checkpoints/3: the checkpoint could not be written: File too large"
    )
    assert "that of update 2 is untouched" in first and "to continue" in first
    named = [line.split(" cannot ")[0] for line in rest]
    assert named == [str(run.path / name) for name in ("log.jsonl", "best.json", "tokenizer")]
    assert {**snapshot(run.path), "lock.pid": before["lock.pid"]} == before
    run.save_checkpoint(3, *contents(3))
    assert intact(run.load_checkpoint("last", training=True), 3)


# A process that trains a little, over and over, each time killed somewhere, and looks at what is left.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from mtcli.run.directory import Run
from checkpoints import contents, intact

run, kills = Run(sys.argv[1]), int(sys.argv[2])

def train(updates):
    with run.lock():
        done = 0
        if run.checkpoints():
            saved = run.load_checkpoint("last", training=True)
            done = saved.update
            run.truncate_log(saved.state["log_size"])
        else:
            run.truncate_log(0)
        for update in range(done + 1, done + 1 + updates):
            run.append_log({"update": update})
            model, tensors, state = contents(update)
            for _ in range(2):  # the second replaces the first
                run.save_checkpoint(update, model, tensors, {**state, "log_size": run.log_size()})
            run.set_best({"update": update - update % 3, "metric": "loss", "value": 1})
            run.prune(1)

def die_at(step):
    # Die at a step of those that change the disk; a write is cut in half.
    counted = iter(range(step + 1))

    def dying(act, half):
        def acts(*arguments, **options):
            if next(counted) == step:
                half(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*arguments, **options)
        return acts

    nothing = lambda *arguments: None
    for name in ("fsync", "rename", "replace", "unlink", "rmdir"):
        setattr(os, name, dying(getattr(os, name), nothing))
    Path.write_bytes = dying(Path.write_bytes, lambda path, data: write_bytes(path, data[: len(data) // 2]))
    Run.append_log = dying(Run.append_log, lambda run, entry: write_bytes(run.path / "log.jsonl", b'{"upd', "ab"))

def write_bytes(path, data, mode="wb"):
    with open(path, mode) as file:
        file.write(data)

def in_child(act):
    child = os.fork()
    if child == 0:
        act()
        os._exit(0)
    return child

def look(newest):
    with run.lock():
        if not run.checkpoints():
            assert newest == 0
            return 0
        saved = run.load_checkpoint("last", training=True)
        assert saved.update >= newest, "an update was lost"
        saved.state["log_size"], size = 0, saved.state["log_size"]
        assert intact(saved, saved.update)
        assert [entry["update"] for entry in run.read_log()][: saved.update] == list(range(1, saved.update + 1))
        run.truncate_log(size)
        assert len(run.read_log()) == saved.update
        best = run.best
        assert best is None or best["update"] <= saved.update
        assert all(run.load_checkpoint(update, training=True) for update in run.checkpoints())  # none half removed
        folder = run.path / "checkpoints"
        assert all(name.isdigit() for name in os.listdir(folder)), os.listdir(folder)
        assert not list(run.path.glob(".*"))
        return saved.update

newest = step = 0
while True:
    child = in_child(lambda: (die_at(step), train(2)))
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert killed in (0, -signal.SIGKILL), killed
    newest = look(newest)
    if killed == 0:
        break
    step += 1
for _ in range(kills):
    child = in_child(lambda: train(1000))
    time.sleep(random.random() * 0.2)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    newest = look(newest)
print(step, kills, newest)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing(tmp_path):
    run = Run.create(tmp_path / "run", YAML, config())
    process = python(KILLED, run.path, KILLS)
    out, _ = process.communicate(timeout=120 + KILLS)
    assert process.returncode == 0
    steps, kills, _ = map(int, out.split())
    assert steps > 30 and kills == KILLS

"""The inspections file survives kills, full disks, second writers and hostile names."""

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyr1 import files, records
from anomalyr1.types import Box, Fingerprint, InputError, Inspection, SetupError

FINGERPRINT = Fingerprint(
    model="nano",
    family="qwen2_5_vl",
    style="ours",
    max_pixels=100_352,
    engine="local",
    versions={"torch": "2.14"},
)
ITEMS = [
    Inspection(sample_id="a.png", verdict="good", boxes=()),
    Inspection(
        sample_id="b\n\u202e<b>.png",
        verdict="defect",
        reason="a crack\nat the top",
        boxes=(Box(x1=1, y1=2, x2=3, y2=4.5),),
    ),
    Inspection(sample_id="not-utf8-\udcff.png", verdict="unsure", reason="unreadable", error="unreadable"),
]


def write(path, items=ITEMS):
    with records.Writer(path, FINGERPRINT) as writer:
        for item in items:
            if item.sample_id not in writer.done:
                writer.append(item)
    return path


def test_what_is_written_is_read(tmp_path):
    path = write(tmp_path / "new" / "i.jsonl")
    assert records.read(path) == (FINGERPRINT, ITEMS)
    assert path.read_bytes().isascii()
    assert path.read_bytes().count(b"\n") == 1 + len(ITEMS)


def test_a_file_cut_anywhere_resumes_to_the_same_file(tmp_path):
    whole = write(tmp_path / "whole.jsonl").read_bytes()
    cut = tmp_path / "cut.jsonl"
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    near_ends = {end + step for end in ends for step in (-1, 0, 1, 2) if end + step <= len(whole)}
    for length in sorted(near_ends | set(range(0, len(whole) + 1, 13))):  # each costs several syncs
        cut.write_bytes(whole[:length])
        write(cut)
        assert cut.read_bytes() == whole, length


def resumed(path, **changed):
    with records.Writer(path, FINGERPRINT.model_copy(update={"revision": "sha256:1", **changed})):
        return True


def test_a_policy_that_was_moved_goes_on_and_only_what_differs_is_named(tmp_path):
    """The digest of its weights says that it is the same, wherever its folder lies."""
    place = tmp_path / "i.jsonl"
    assert resumed(place, model="taught/final") and resumed(place, model="/line/taught/final")
    with pytest.raises(
        InputError, match=r"another run, .*: model was 'taught/final' .*revision was 'sha256:1'"
    ):
        resumed(place, model="/line/taught/final", revision="sha256:2")
    by_name = tmp_path / "by-name.jsonl"
    assert resumed(by_name, revision="")
    with pytest.raises(InputError, match="model was 'nano' and is now 'other'"):  # the control: no digest
        resumed(by_name, revision="", model="other")
    with pytest.raises(InputError, match=r"resumed: versions was \{\} and is now \{'device': 'cuda'\}\."):
        resumed(place, model="taught/final", versions={"torch": "2.14", "device": "cuda"})


def test_reading_leaves_out_only_a_torn_last_line(tmp_path, caplog):
    path = write(tmp_path / "i.jsonl")
    path.write_bytes(path.read_bytes()[:-1])
    assert records.read(path)[1] == ITEMS[:-1]
    assert "torn" in caplog.text


@pytest.mark.parametrize(
    ("line", "replacement", "said"),
    [
        (0, b"{}", "line 1"),
        (0, b'{"sample_id": "a.png"}', "fingerprint"),
        (1, b"{", "line 2"),
        (1, b"", "line 2"),
        (2, b'{"sample_id": "x", "verdict": "fine"}', "line 3"),
        (2, b'{"sample_id": "x", "verdict": "good", "score": NaN}', "line 3"),
        (3, b"\xff\xfe", "line 4"),
        (3, b"[" * 100_000, "line 4"),
        (3, ITEMS[0].to_json().encode(), "repeats sample 'a.png'"),
    ],
)
def test_any_other_broken_line_is_named(tmp_path, line, replacement, said):
    path = write(tmp_path / "i.jsonl")
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:line], replacement, *lines[line + 1 :]]))
    before = path.read_bytes()
    for use in (records.read, lambda p: records.Writer(p, FINGERPRINT)):
        with pytest.raises(InputError, match=said):
            use(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b"\n"])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(InputError, match="notes"):
        records.Writer(path, FINGERPRINT)
    assert path.read_bytes() == content


@pytest.mark.parametrize("change", [{"model": "other"}, {"seed": 1}, {"versions": {"torch": "2.15"}}])
def test_another_fingerprint_is_refused_and_what_differs_is_named(tmp_path, change):
    path = write(tmp_path / "i.jsonl")
    (name,) = change
    with pytest.raises(InputError, match=f"{name} was .* and is now"):
        records.Writer(path, FINGERPRINT.model_copy(update=change))
    records.Writer(path, FINGERPRINT).close()  # control: the same one is taken


def test_a_sample_is_not_written_twice(tmp_path):
    with (
        records.Writer(write(tmp_path / "i.jsonl"), FINGERPRINT) as writer,
        pytest.raises(InputError, match="already"),
    ):
        writer.append(ITEMS[0])


def test_missing_and_unwritable_paths_are_typed_errors(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        records.read(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot write"):
        records.Writer(tmp_path / "file" / "i.jsonl", FINGERPRINT)


FULL_DISK = """
import resource, signal, sys
from anomalyr1 import records, types
path, fingerprint, item = sys.argv[1:]
writer = records.Writer(path, types.Fingerprint.from_json(fingerprint))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
room = __import__("os").path.getsize(path) + 20  # half a line more
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
writer.append(types.Inspection.from_json(item))
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of a file the POSIX way")
def test_a_full_disk_is_said_and_leaves_whole_lines(tmp_path):
    path = write(tmp_path / "i.jsonl", ITEMS[:2])
    before = path.read_bytes()
    command = [sys.executable, "-c", FULL_DISK, path, FINGERPRINT.to_json(), ITEMS[2].to_json()]
    late = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "SetupError: cannot write to" in late.stderr
    assert path.read_bytes() == before
    assert records.read(write(path))[1] == ITEMS


def delete(path):
    path.unlink()


def replace(path):
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").replace(path)


def move_folder(path):
    path.parent.rename(path.parent.with_name("moved"))


def leave_alone(path):
    pass


@pytest.mark.skipif(os.name != "posix", reason="elsewhere an open file cannot be taken away")
@pytest.mark.parametrize(
    ("happens", "stopped"), [(delete, True), (replace, True), (move_folder, True), (leave_alone, False)]
)
def test_a_file_taken_away_while_it_is_written_stops_the_run(tmp_path, happens, stopped):
    path = tmp_path / "out" / "i.jsonl"
    with records.Writer(path, FINGERPRINT) as writer:
        writer.append(ITEMS[0])
        happens(path)
        if stopped:
            with pytest.raises(SetupError, match=r"i\.jsonl' was deleted or replaced while it was written"):
                writer.append(ITEMS[1])
            assert list(writer.done) == ["a.png"]  # what was not kept does not count as done
        else:  # control
            writer.append(ITEMS[1])
            assert len(records.read(path)[1]) == 2


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe the POSIX way")
def test_a_pipe_is_no_inspections_file_and_nothing_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "i.jsonl")
    for use in (records.read, lambda path: records.Writer(path, FINGERPRINT)):
        with pytest.raises(InputError, match="a pipe or a device"):
            use(tmp_path / "i.jsonl")


def test_what_failed_may_come_again_and_the_newest_line_counts(tmp_path):
    path = write(tmp_path / "i.jsonl")
    mended = ITEMS[2].model_copy(update={"verdict": "good", "error": None})
    with (
        records.Writer(path, FINGERPRINT) as writer,
        pytest.raises(InputError, match="already"),  # control: only where it is asked for
    ):
        writer.append(mended)
    with records.Writer(path, FINGERPRINT, retry_failed=True) as writer:
        assert list(writer.done.values()) == ITEMS[:2]
        writer.append(mended)
    assert records.read(path)[1] == [*ITEMS[:2], mended]
    assert path.read_bytes().count(b"\n") == 5  # the failure stays on record
    with path.open("ab") as file:
        file.write(mended.to_json().encode() + b"\n")
    with pytest.raises(InputError, match=r"line 6 .* repeats sample"):
        records.read(path)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LONGEST_LINE", 1000)
    path = write(tmp_path / "i.jsonl", ITEMS[:1])
    with path.open("ab") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"line 3 .* longer than 1,000 bytes"):
        records.read(path)


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "i.jsonl"
    script = (
        "from anomalyr1 import records, types; "
        f"records.Writer({str(path)!r}, types.Fingerprint.from_json({FINGERPRINT.to_json()!r}))"
    )
    with records.Writer(path, FINGERPRINT):
        second = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "InputError: another process is writing" in second.stderr
    assert (
        subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    )  # control: the lock went with its owner


def test_what_a_killed_process_was_starting_lets_go_a_moment_later(tmp_path):
    """The copy of a process that is made to start another holds its lock until the other has begun."""
    holding = "import fcntl, sys, time; file = open(sys.argv[1], 'ab'); fcntl.flock(file, fcntl.LOCK_EX); "
    path = tmp_path / "i.jsonl"
    script = holding + "print('held', flush=True); time.sleep(0.7)"
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with records.Writer(path, FINGERPRINT) as writer:
            assert writer.done == {}


def test_writing_a_whole_file_replaces_it_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "new" / "page.html"
    for data in (b"one", b"two"):
        files.write_whole(path, data)
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


@settings(max_examples=50, deadline=None)
def names(folder):
    return [path.name for path in folder.iterdir()]


def test_a_new_folder_is_whole_or_absent(tmp_path):
    with files.new_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "file").read_text() == "x" and names(tmp_path / "a") == ["b"]
    with pytest.raises(KeyError), files.new_folder(tmp_path / "c") as folder:
        (folder / "file").write_text("x")
        raise KeyError
    with pytest.raises(InputError, match="exists"), files.new_folder(tmp_path / "a"):
        pass
    assert names(tmp_path) == ["a"]


def test_a_new_folder_that_appears_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(InputError, match="exists"), files.new_folder(tmp_path / "a"):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "theirs").write_text("x")
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["theirs"]


def test_a_new_folder_that_the_disk_refuses_is_a_setup_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SetupError, match="cannot write"), files.new_folder(tmp_path / "file" / "a"):
        pass


@given(
    st.lists(st.text(st.characters(exclude_categories=())), unique=True, max_size=5),
    st.text(st.characters(exclude_categories=())),
)
def test_any_text_round_trips(tmp_path_factory, names, reason):
    path = tmp_path_factory.mktemp("any") / "i.jsonl"
    items = [Inspection(sample_id=name, verdict="unsure", reason=reason) for name in names]
    assert records.read(write(path, items))[1] == items

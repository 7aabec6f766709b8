"""Jobs of a study: on this machine through submitit, and on a SLURM that shell scripts stand for."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

pytest.importorskip("submitit")

from s3prl_mi.cli import study_summary as conclusion
from s3prl_mi.cli.run_downstream import main
from s3prl_mi.core.errors import MIError
from s3prl_mi.core.locks import Lock
from s3prl_mi.experiment.jobs import run as jobs_module
from s3prl_mi.experiment.jobs import submission
from s3prl_mi.experiment.jobs.engine import Engine, engine_of, slurm_parameters
from s3prl_mi.experiment.jobs.run import run_jobs
from s3prl_mi.experiment.jobs.submission import StudyJob, threads_for
from s3prl_mi.experiment.jobs.work import Work, digest_of
from tests.helpers.runner import Runner
from tests.upstreams.test_user_modules import MODULE

STUB = '''
import json, os, signal, sys, time
from pathlib import Path
from s3prl_mi.core.errors import MIError


def measure(payload, resume):
    """Says in a file that it was called; then does as the payload says."""
    folder = Path(payload["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    about = {"resume": resume, **{n: os.environ.get(n) for n in names}}
    with open(folder / "calls", "a") as file:
        file.write(json.dumps({**about, "began": time.time()}) + "\\n")
    print(f"measuring {folder.name}", file=sys.stderr)
    how = payload.get("how")
    if how == "mistake":
        raise MIError("key a is wrong")
    if how == "bug":
        raise ValueError("a bug\\nin two lines")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.time()
    while how == "wait" and not (folder.parents[1] / "go").exists() and time.time() - began < 60:
        time.sleep(0.05)
    time.sleep(payload.get("seconds", 0))
    (folder / "mi_results.jsonl").write_text("")
    (folder / "ended").write_text(str(time.time()))
'''
ENTRY = "job_stub:measure"
HERE = Engine(2, None)


class Killed(BaseException):
    """The command is gone at once, without a word."""


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A study's folder; jobs can import the stub and find no reason to take all cores."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "job_stub.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setitem(jobs_module.POLL, "local", 0.05)
    monkeypatch.setitem(jobs_module.POLL, "slurm", 0.05)
    monkeypatch.setattr(jobs_module, "TIME_TO_END", 0.2)
    return tmp_path / "study"


def work(root: Path, name: str, tasks=("mi_views",), **how) -> Work:
    payloads = {task: {"folder": str(root / task / name), **how.get(task, how)} for task in tasks}
    results = tuple(root / task / name / "mi_results.jsonl" for task in tasks)
    return Work(name, ENTRY, payloads, digest_of(payloads), results)


def calls(root: Path, name: str, task="mi_views") -> list[dict]:
    path = root / task / name / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def notes(root: Path) -> dict:
    return json.loads((root / "jobs.json").read_text())["jobs"]


# --- What is asked for -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("partition=gpu,gpus_per_node=1", {"slurm_partition": "gpu", "gpus_per_node": 1}),
        ("slurm_qos=low,mem_gb=1.5,name=x", {"slurm_qos": "low", "mem_gb": 1.5, "name": "x"}),
        ("nodelist=n1,n2,exclusive=true", {"slurm_nodelist": "n1,n2", "slurm_exclusive": True}),
        ("timeout_min=90", {"timeout_min": 90}),
        ("time=4:00:00", {"slurm_time": 240}),
        ("time=2-12:30:00", {"slurm_time": 60 * 60 + 30}),
        ("time=1-06:00", {"slurm_time": 30 * 60}),
        ("time=10:30", {"slurm_time": 11}),
        ("gres=gpu:a100:1", {"slurm_gres": "gpu:a100:1"}),
    ],
)
def test_slurm_parameters(text, expected):
    assert slurm_parameters(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gpu", "expected key=value"),
        ("time=soon", "time limit of 'soon'"),
        ("time=1-6", "time limit"),
        ("nodes=2", "a job is one process"),
        ("ntasks_per_node=4", "a job is one process"),
    ],
)
def test_slurm_parameters_that_mean_nothing(text, says):
    with pytest.raises(MIError, match=says):
        slurm_parameters(text)


def test_without_options_there_is_no_engine(monkeypatch):
    assert engine_of(None, None) is None
    assert engine_of(3, None) == Engine(3, None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MIError, match="no SLURM on this machine"):
        engine_of(None, "")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MIError, match="torchrun"):
        engine_of(3, None)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MIError, match=r"s3prl_mi\[cluster\]"):
        engine_of(3, None)


def test_jobs_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(9)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_for(n) for n in (1, 2, 4, 20)] == [9, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [threads_for(n) for n in (1, 2, 4)] == [3, 3, 2]


# --- On this machine -------------------------------------------------------------------------------------


def test_local_jobs_and_how_they_fail(root, caplog, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    both = ("mi_views", "mi_supervised")
    works = [
        work(root, "good", both, seconds=0.3),
        work(root, "half", both, mi_views={"how": "mistake"}, mi_supervised={}),
        work(root, "bug", how="bug"),
        work(root, "killed", how="killed"),
    ]
    with caplog.at_level("INFO", "s3prl_mi"):
        done, failed = run_jobs(works, HERE, root, resume=False)
    assert done == ["mi_views of good", "mi_supervised of good", "mi_supervised of half"]
    assert [line.partition(" (log: ")[0] for line in failed] == [
        "mi_views of half: key a is wrong",
        "mi_views of bug: ValueError: a bug",
        "mi_views of killed: killed before it ended (out of memory?)",
    ]
    log = Path(failed[1].partition(" (log: ")[2].rstrip(")"))
    assert "Traceback" in log.read_text()
    assert [(c["OMP_NUM_THREADS"], c["CUDA_VISIBLE_DEVICES"]) for c in calls(root, "good")] == [("1", "3,5")]
    # never more than two at once: a third began only when one of the first two was over
    began = sorted(calls(root, w.name)[0]["began"] for w in works)
    assert began[2] >= float((root / "mi_views" / "good" / "ended").read_text()) or began[2] >= float(
        (root / "mi_supervised" / "half" / "ended").read_text()
    )
    # one line per job that starts or ends, with its time or its reason and its log
    assert "4 of 4 jobs to submit: 2 at once on this machine, 1 thread(s) each" in caplog.messages
    assert any(m.startswith("good: running on this machine (log: ") for m in caplog.messages)
    assert "good: done in 0:00:01" in caplog.messages
    assert {f"failed: {line}" for line in failed} <= set(caplog.messages)

    # -a: what is done is left alone, what failed is tried again
    works = [work(root, "good", both, seconds=0.3), work(root, "half", both)]
    done, failed = run_jobs(works, HERE, root, resume=True)
    assert (len(done), failed) == (4, [])
    assert [len(calls(root, name)) for name in ("good", "half")] == [1, 2]
    # other settings, or results that are gone: measured again
    (root / "mi_views" / "half" / "mi_results.jsonl").unlink()
    run_jobs([work(root, "good", both, seeds=5), works[1]], HERE, root, resume=True)
    assert [len(calls(root, name)) for name in ("good", "half")] == [2, 3]
    # a job of another command keeps its note
    run_jobs([work(root, "other")], HERE, root, resume=True)
    assert set(notes(root)) == {"good", "half", "bug", "killed", "other"}
    assert all(Path(note["folder"]).is_absolute() for note in notes(root).values())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # processes without their parent
def test_a_command_that_was_killed_leaves_jobs_that_are_not_run_twice(root, monkeypatch):
    works = [work(root, "a", how="wait")]
    with monkeypatch.context() as patch:
        patch.setattr(StudyJob, "look", _raise_once_running(Killed, root, "a"))
        with pytest.raises(Killed):
            run_jobs(works, HERE, root, resume=False)
    with pytest.raises(MIError, match="jobs that an earlier command started on this machine still run"):
        run_jobs(works, HERE, root, resume=True)
    (root / "go").touch()
    local = Lock(root / "jobs" / "local.lock")
    local.wait()
    local.close()
    done, failed = run_jobs(works, HERE, root, resume=True)
    assert (len(done), failed) == (1, [])
    assert len(calls(root, "a")) == 1, "a job that ended by itself was done again"


@pytest.fixture
def heeds_ctrl_c():
    """Where the tests run in the background of a shell, they and all that they start ignore SIGINT; undo that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_ends_local_jobs(root, monkeypatch, caplog):
    works = [work(root, "a", how="wait"), work(root, "b")]
    with monkeypatch.context() as patch:
        patch.setattr(StudyJob, "look", _raise_once_running(KeyboardInterrupt, root, "a"))
        with caplog.at_level("INFO", "s3prl_mi"), pytest.raises(KeyboardInterrupt):
            run_jobs(works, Engine(1, None), root, resume=False)
    assert "ended 1 job(s) on this machine." in caplog.text
    assert Lock(root / "jobs" / "local.lock").take(), "it still runs"
    assert calls(root, "b") == []
    (root / "go").touch()
    done, failed = run_jobs(works, HERE, root, resume=True)
    assert (len(done), failed) == (2, [])


def _raise_once_running(error, root, name):
    def look(job):
        if calls(root, name):
            raise error
        return False

    return look


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_counts(root, monkeypatch):
    screen = Terminal()
    works = [work(root, "a", seconds=0.3), work(root, "b", how="bug"), work(root, "c")]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        run_jobs(works, Engine(1, None), root, resume=False)
    shown = screen.getvalue()
    assert "jobs: 3 queued [00:00]" in shown
    assert "jobs: 2 queued, 1 running [00:" in shown
    assert "jobs: 1 queued, 1 done, 1 failed [00:" in shown


def test_two_commands_on_one_study(root):
    alone = Lock(root / "jobs" / "command.lock", create=True)
    assert alone.take()
    with pytest.raises(MIError, match="another command runs the jobs of this study"):
        run_jobs([work(root, "a")], HERE, root, resume=True)


@pytest.mark.parametrize(("visible", "names"), [(None, "001"), ("3,5,7", "335")])
def test_jobs_take_turns_on_gpus(root, monkeypatch, visible, names):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    works = [work(root, name) for name in "abc"]
    run_jobs(works, Engine(3, None), root, resume=False, device="cuda")
    assert sorted(calls(root, name)[0]["CUDA_VISIBLE_DEVICES"] for name in "abc") == list(names)


def test_damaged_jobs_file(root):
    root.mkdir()
    (root / "jobs.json").write_text("{")
    with pytest.raises(MIError, match=r"jobs\.json: cannot be read"):
        run_jobs([work(root, "a")], HERE, root, resume=True)


def test_another_checkpoint_of_the_same_name_is_another_job(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_text("1")
    before = digest_of({"seed": 1}, [str(path), None, "nowhere"])
    assert digest_of({"seed": 1}, [str(path)]) == before
    assert digest_of({"seed": 2}, [str(path)]) != before
    path.write_text("12")
    assert digest_of({"seed": 1}, [str(path)]) != before


def test_a_job_of_slurm_that_starts_again_resumes(root, monkeypatch):
    job = work(root, "a")
    assert job().reasons == {"mi_views": None}
    again = job.checkpoint()
    again.function(*again.args, **again.kwargs)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    job()
    assert [c["resume"] for c in calls(root, "a")] == [False, True, True]


# --- On a SLURM that scripts stand for -------------------------------------------------------------------

SBATCH = """#!{python}
import itertools, os, re, subprocess, sys
here = os.path.dirname(os.path.abspath(__file__))
number = len(os.listdir(os.path.join(here, "submitted"))) + 1
text = open(sys.argv[1]).read()
open(os.path.join(here, "submitted", str(number)), "w").write(text)
if "partition=none" in text:
    sys.exit("sbatch: error: invalid partition specified: none")
array = re.search(r"--array=0-(\\d+)", text)
for task in range(int(array[1]) + 1) if array else [None]:
    env = dict(os.environ, SLURM_JOB_ID=str(100 * number + (task or 0)), SLURM_PROCID="0", SLURM_LOCALID="0")
    if array:
        env.update(SLURM_ARRAY_JOB_ID=str(number), SLURM_ARRAY_TASK_ID=str(task))
    else:
        env["SLURM_JOB_ID"] = str(number)
    if "partition=lost" not in text:
        subprocess.Popen(["bash", sys.argv[1]], env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
print(f"Submitted batch job {{number}}")
"""
SRUN = """#!{python}
import os, subprocess, sys
words = sys.argv[1:]
place = words[words.index("--output") + 1]
command = words[words.index("--output") + 2 :]
for sign, name in (("%A", "SLURM_ARRAY_JOB_ID"), ("%a", "SLURM_ARRAY_TASK_ID"), ("%j", "SLURM_JOB_ID")):
    place = place.replace(sign, os.environ.get(name, ""))
with open(place.replace("%t", "0"), "a") as log:
    sys.exit(subprocess.run(command, stdout=log, stderr=log).returncode)
"""


@pytest.fixture
def slurm(root, tmp_path, monkeypatch) -> Path:
    """Folder of what was submitted; sacct knows nothing, as where accounting is off."""
    tools = tmp_path / "slurm"
    (tools / "submitted").mkdir(parents=True)
    silent = "#!/bin/sh\nexit 0\n"
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": silent, "squeue": silent}.items():
        (tools / name).write_text(text.format(python=sys.executable))
        (tools / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return tools / "submitted"


def cluster_of(text: str, jobs: int | None = None) -> Engine:
    engine = engine_of(jobs, text)
    assert engine is not None
    return engine


def test_slurm_gets_one_array_and_keeps_it_after_ctrl_c(root, slurm, monkeypatch, caplog):
    works = [work(root, "a", how="wait"), work(root, "b", how="wait")]
    engine = cluster_of("partition=gpu,time=2:00:00,gpus_per_node=1", jobs=7)
    with monkeypatch.context() as patch:
        patch.setattr(StudyJob, "look", _raise_once_running(KeyboardInterrupt, root, "a"))
        with caplog.at_level("INFO", "s3prl_mi"), pytest.raises(KeyboardInterrupt):
            run_jobs(works, engine, root, resume=False)
    text = (slurm / "1").read_text()
    for line in ("partition=gpu", "time=120", "gpus-per-node=1", "array=0-1%2", "job-name=s3prl_mi-study"):
        assert f"#SBATCH --{line}\n" in text
    assert "2 job(s) continue under SLURM (1_0, 1_1)" in caplog.text
    assert "`scancel 1` ends them" in caplog.text
    assert {n["id"] for n in notes(root).values()} == {"1_0", "1_1"}
    with pytest.raises(MIError, match=r"still run: a \(slurm job 1_0\), b"):
        run_jobs(works, engine, root, resume=False)
    (root / "go").touch()
    done, failed = run_jobs([*works, work(root, "c", seconds=0)], engine, root, resume=True)
    assert (len(done), failed) == (3, [])
    assert [len(calls(root, name)) for name in "abc"] == [1, 1, 1]
    assert "--array" not in (slurm / "2").read_text(), "only the new one was submitted"
    assert calls(root, "c")[0]["CUDA_VISIBLE_DEVICES"] == os.environ.get("CUDA_VISIBLE_DEVICES")


def test_what_slurm_refuses_or_loses(root, slurm, monkeypatch):
    works = [work(root, "a")]
    with pytest.raises(MIError, match=r"sbatch refused the jobs: .*invalid partition specified: none"):
        run_jobs(works, cluster_of("partition=none"), root, resume=False)
    with pytest.raises(MIError, match="--slurm: Unknown argument 'partitoin'"):
        run_jobs(works, cluster_of("partitoin=gpu"), root, resume=False)
    monkeypatch.setattr(jobs_module, "ASK_SLURM_EVERY", 0.2)
    (slurm.parent / "sacct").write_text("#!/bin/sh\necho 'CANCELLED by 0'\n")
    done, failed = run_jobs(works, cluster_of("partition=lost"), root, resume=False)
    assert done == []
    assert failed[0].startswith("mi_views of a: SLURM ended job 2 without a result (CANCELLED) (log: ")
    assert f"#SBATCH --time={submission.SLURM_MINUTES}\n" in (slurm / "2").read_text()


# --- The whole -------------------------------------------------------------------------------------------


def test_a_study_in_jobs_from_the_command_line(run: Runner, tmp_path, capsys, monkeypatch):
    concluded = []
    monkeypatch.setattr(conclusion, "summarise_study", lambda folder, failed: concluded.append((folder, failed)))
    module = tmp_path / "my_upstreams.py"
    module.write_text(MODULE)
    words = run.command("mi_views", "fbank", seeds=1, layers="last")
    words[words.index("fbank")] = "fbank,my_model"
    words += ["--upstream_module", str(module), "--jobs", "2"]
    assert main(words) == 0
    assert "2 of 2 jobs to submit: 2 at once on this machine" in capsys.readouterr().err
    results = {p.parent.name: p.read_bytes() for p in tmp_path.rglob("mi_results.jsonl")}
    assert set(results) == {"fbank", "my_model"}
    assert all(content.count(b"\n") == 1 for content in results.values())
    assert main([*words, "-a"]) == 0
    assert "0 of 2 jobs to submit, 2 done already" in capsys.readouterr().err
    assert {p.parent.name: p.read_bytes() for p in tmp_path.rglob("mi_results.jsonl")} == results
    assert concluded == 2 * [(tmp_path / "experiment", [])]

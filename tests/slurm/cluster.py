"""A SLURM cluster of one node in a folder of its own: munge, controller, node daemon, two pretended GPUs.

Nothing outside the folder is read or written, least of all `/etc/slurm` and `/etc/munge`: the clients that
Snakemake calls are small scripts ahead on PATH that name this cluster's configuration, because the plugin
strips `SLURM_CONF` from the environment of jobs. Needs no root. Run with SLURM 22.05.8 of Debian 12.
"""

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "sinfo", "scancel", "scontrol", "sacct", "sacctmgr", "sshare")
PLACES_OF_DAEMONS = ":/usr/sbin:/sbin"  # beside those of PATH
N_GPUS = 2
LONGEST_S = 2400  # of a study, far above what it takes: only against waiting for ever
KILL_WAIT_S = 30  # a step and a save must fit in

# Partition `urgent` preempts jobs of `gpu`. Jobs stay on record for an hour. Four jobs run at once.
CONFIGURATION = """
ClusterName=lowmag
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
KillWait={kill_wait}
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=64000 Gres=gpu:{n_gpus} State=UNKNOWN
PartitionName=cpu Nodes=n1 Default=YES MaxTime=24:00:00 PriorityTier=1 State=UP
PartitionName=gpu Nodes=n1 MaxTime=24:00:00 PriorityTier=1 State=UP
PartitionName=urgent Nodes=n1 MaxTime=01:00:00 PriorityTier=10 State=UP
"""
# A GPU is a device file to SLURM: these two are on every machine.
GPUS = "AutoDetect=off\nNodeName=n1 Name=gpu File=/dev/null\nNodeName=n1 Name=gpu File=/dev/zero\n"
CGROUPS = "CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n"


def missing() -> list[str]:
    """Programs of SLURM and munge that are not installed."""
    return [name for name in (*DAEMONS, *CLIENTS) if not program(name)]


def program(name: str) -> str | None:
    """Path of a program, looked for where daemons lie, too."""
    return shutil.which(name, path=os.environ["PATH"] + PLACES_OF_DAEMONS)


@dataclass
class Cluster:
    """A running cluster whose files lie in `folder`."""

    folder: Path
    started: list[subprocess.Popen] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use this cluster."""
        return {"PATH": f"{self.folder}/bin:{os.environ['PATH']}"}

    def start(self) -> None:
        """Start the three daemons and wait until the node takes jobs; raises RuntimeError with their logs."""
        self._configure()
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        options = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid"}
        options |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        places = [f"--{name}={self.folder / file}" for name, file in options.items()]
        self._daemon("munged", "--foreground", *places)
        self.until(lambda: (self.folder / "munge.socket").exists())
        self._daemon("slurmctld", "-D", "-f", f"{self.folder}/slurm.conf")
        self._start_node()
        self.until(lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T", check=False))

    def ask(self, *command: str, check: bool = True) -> str:
        """What a client of SLURM prints."""
        command = (str(self.folder / "bin" / command[0]), *command[1:])
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """SLURM's own record of every job, oldest first; `Comment` holds Snakemake's rule and wildcards."""
        lines = self.ask("scontrol", "--oneliner", "--details", "show", "job", check=False).splitlines()
        records = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if line.startswith("JobId=")]
        return sorted(records, key=lambda job: int(job["JobId"]))

    def jobs_of(self, rule: str, wildcards: str = "") -> list[dict[str, str]]:
        """The records of a rule's jobs, those whose wildcards hold a text."""
        own = [job for job in self.jobs() if rule_of(job) == rule]
        return [job for job in own if wildcards in job["Comment"]]

    def running(self, rule: str, wildcards: str = "") -> list[str]:
        """Ids of a rule's jobs that run now."""
        return [job["JobId"] for job in self.jobs_of(rule, wildcards) if job["JobState"] == "RUNNING"]

    def lose_node(self) -> None:
        """End all that runs on the node at once, as a cut of power does, and set it down."""
        node = self.started.pop()
        node.kill()
        node.wait()
        # Those first that would tell the controller how the others ended.
        of_jobs = [pid for pid in self._left_running() if _is_of_a_job(pid)]
        for pid in sorted(of_jobs, key=_is_step_daemon, reverse=True):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.ask("scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=test")

    def restart_node(self) -> None:
        """Start the node's daemon again and wait until it takes jobs."""
        self._start_node()

        def is_back() -> bool:
            self.ask("scontrol", "update", "NodeName=n1", "State=RESUME", check=False)  # or it is by itself
            return "down" not in self.ask("sinfo", "--noheader", "--format=%T")

        self.until(is_back)

    def release(self) -> None:
        """Let requeued jobs start at once, which SLURM holds back for two minutes.

        And start the controller again where it has crashed, as a site's systemd does: that of 22.05 may when
        asked about a job that it has just requeued (`build_job_info_resp`). What it knew lies on disk.
        """
        if self.started[1].poll() is not None:
            self._daemon("slurmctld", "-D", "-f", f"{self.folder}/slurm.conf")
            self.started[1] = self.started.pop()
        for job in self.jobs():
            if job["JobState"] == "PENDING" and job["Reason"] == "BeginTime":
                self.ask("scontrol", "update", f"JobId={job['JobId']}", "StartTime=now", check=False)

    def stop(self) -> None:
        """End its jobs, its daemons, and whatever they left running."""
        self.ask("scancel", f"--user={getpass.getuser()}", check=False)
        deadline = time.monotonic() + KILL_WAIT_S + 10
        while time.monotonic() < deadline and self.ask("squeue", "--noheader", check=False).strip():
            time.sleep(0.5)
        for process in reversed(self.started):
            process.terminate()
        for process in self.started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self._left_running():
            os.kill(pid, signal.SIGKILL)

    def _start_node(self) -> None:
        self._daemon("slurmd", "-D", "-f", f"{self.folder}/slurm.conf")

    def _configure(self) -> None:
        self.folder.chmod(0o755)  # munge wants its socket to be within everybody's reach
        for name in ("bin", "controller", "node"):
            (self.folder / name).mkdir()
        values = {"host": socket.gethostname(), "user": getpass.getuser(), "folder": self.folder}
        values |= {"controller_port": _free_port(), "node_port": _free_port()}
        text = CONFIGURATION.format(**values, n_gpus=N_GPUS, kill_wait=KILL_WAIT_S)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(GPUS)
        (self.folder / "cgroup.conf").write_text(CGROUPS)
        for name in CLIENTS:
            script = self.folder / "bin" / name
            script.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {program(name)} "$@"\n')
            script.chmod(0o755)

    def _daemon(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("w") as log:
            environment = {**os.environ, **self.environment, "SLURM_CONF": f"{self.folder}/slurm.conf"}
            command = [program(name) or name, *arguments]
            self.started.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.folder)
            )

    def until(self, condition: Callable[[], bool], seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or any(process.poll() is not None for process in self.started):
                logs = "\n".join(path.read_text() for path in self.folder.glob("*.log"))
                raise RuntimeError(f"the cluster did not come up:\n{logs}")
            time.sleep(0.2)

    def _left_running(self) -> list[int]:
        """Processes of its jobs (this cluster's clients are on their PATH) and SLURM's own beside them."""
        mark, found = f"PATH={self.folder}/bin:".encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended, or is another user's
                variables = (process / "environ").read_bytes().split(b"\0")
                if process.joinpath("cwd").readlink() == self.folder or any(
                    v.startswith(mark) for v in variables
                ):
                    found.append(int(process.name))
        return found


def _is_of_a_job(pid: int) -> bool:
    """Whether a process is part of a job, or SLURM's own beside one."""
    with suppress(OSError):
        return _is_step_daemon(pid) or b"\0SLURM_JOB_ID=" in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def _is_step_daemon(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"slurmstepd")
    return False


def rule_of(job: dict[str, str]) -> str:
    """The rule that a job's comment names; empty for what Snakemake did not submit."""
    found = re.match(r"rule_(.+?)(_wildcards_.*)?$", job.get("Comment", ""))
    return found[1] if found else ""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]

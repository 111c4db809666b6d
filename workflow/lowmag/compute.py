"""Section compute of the config: what jobs ask for."""

from pydantic import Field, field_validator

from lowmag.sections import Section

SNAKEMAKE_MB = 1000  # what Snakemake itself may take within a job


class Job(Section):
    """What a job of one kind asks for; changing it reruns nothing."""

    threads: int = Field(default=2, ge=1, description="CPU threads")
    mem_mb: int = Field(default=8000, ge=500, description="memory, megabytes")
    runtime: int = Field(
        default=720, ge=1, description="time limit, minutes; training saves and stops before it"
    )


class SlideJob(Job):
    threads: int = Field(default=1, description="CPU threads; a slide is read by one")
    mem_mb: int = Field(default=2000, ge=500, description="memory, megabytes")
    runtime: int = Field(default=60, ge=1, description="time limit, minutes")

    @field_validator("threads")
    @classmethod
    def _one(cls, threads: int) -> int:
        if threads != 1:
            raise ValueError("a slide is read by one thread; snakemake --cores reads several slides at once")
        return threads


class ChunkJob(Job):
    slides: int = Field(default=50, ge=1, description="slides that one job takes, count")
    threads: int = Field(default=1, ge=1, description="slides at once, one CPU thread each")
    mem_mb: int = Field(
        default=3000, ge=1000, description="memory, megabytes; compute.slide for each, and 1000"
    )


class Compute(Section):
    slide: SlideJob = SlideJob()
    chunk: ChunkJob = ChunkJob()
    teacher: Job = Job()
    targets: Job = Job(runtime=120)
    students: Job = Job()
    predictions: Job = Job(runtime=120)

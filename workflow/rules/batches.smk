CHUNKS = Path(OUT, "chunks")


# The jobs of a cluster are big: one of a single slide spends more time on starting than on the slide. So the slides
# that Snakemake finds to be done are done in chunks before (lowmag.chunks), and this command begins anew.
ROUNDS = chunks.rounds_so_far() if workflow.is_main_process else 0


# A dry run calls all of them finished at its end.
def single_slides():
    jobs = workflow.dag.needrun_jobs(exclude_finished=False)
    return [job for job in jobs if job.rule.name in chunks.STAGES]


def too_many(jobs):
    return is_cluster and len(jobs) > len(chunks.STAGES) * plan.job("chunk").slides


def take_slides_in_chunks():
    jobs = single_slides()
    if workflow.local_exec or not too_many(jobs):
        return
    if ROUNDS >= chunks.MOST_ROUNDS or chunks.command() is None:
        raise WorkflowError(
            f"{len(jobs)} jobs of one slide each are to be done, which go in chunks on a cluster: start the command "
            "snakemake itself, without --forceall or --forcerun"
        )
    files = {slide: [] for slide in SLIDES}
    for job in jobs:
        files[job.wildcards.slide] += map(str, job.output)
    wanted = {slide: found for slide, found in files.items() if found}
    batch = chunks.write_batch(CHUNKS, wanted, plan.job("chunk").slides)
    logger.info(f"{len(wanted)} slides go first, in chunks: batch {batch}.")
    # When Snakemake has let go of its lock.
    atexit.register(chunks.begin_batch, CHUNKS / batch, ROUNDS, workflow.workdir_init)
    raise SystemExit(0)


# By `print`: Snakemake calls no handler at the end of a dry run, and its logger is gone by then.
def say_chunks():
    if (
        workflow.is_main_process
        and workflow.dryrun
        and too_many(jobs := single_slides())
    ):
        size = plan.job("chunk").slides
        print(
            f"{len(jobs)} of these jobs go first, {size} slides to a job.",
            file=sys.stderr,
        )


atexit.register(say_chunks)


def chunks_of_batch(wildcards):
    lists = chunks.lists(CHUNKS / wildcards.batch)
    return [str(path.with_suffix(".done")) for path in lists]


def files_of_chunk(wildcards):
    return chunks.files_of(CHUNKS / wildcards.batch / f"{wildcards.number}.json")


# What the Snakemake within a chunk is told of the command line of this one: config, environments, object stores.
# Snakemake quotes by Python's rules what a shell is to read, and --config holds any text: it is passed on as it was.
def options_of_chunk(wildcards):
    factory = workflow.spawned_job_args_factory
    os.environ.update(factory.get_storage_provider_envvars())  # keys are in no argument
    told = [
        factory.workflow_property_to_arg(name, **more)
        for name, more in PASSED_ON.items()
    ]
    told += [factory.get_configfiles_arg(), *factory.get_storage_provider_args()]
    options = shlex.split(" ".join(filter(None, told)))
    given = workflow.config_settings.config_args
    return [*options, "--config", *given] if given else options


PASSED_ON = {
    "rerun_triggers": {},
    "execution_settings.latency_wait": {},
    "scheduling_settings.scheduler": {},
    "deployment_settings.deployment_method": {},
    "deployment_settings.conda_frontend": {},
    "deployment_settings.conda_prefix": {},
    "conda_base_path": {},
    "deployment_settings.apptainer_prefix": {},
    "deployment_settings.apptainer_args": {"base64_encode": True},
    "storage_settings.local_storage_prefix": {"base64_encode": True},
    "storage_settings.keep_storage_local": {"flag": "--keep-storage-local-copies"},
    "storage_settings.wait_for_free_local_storage": {"convert_value": "{}s".format},
}

"""Many upstreams or checkpoints at once, on this machine (`--jobs N`) or on a SLURM cluster (`--slurm ...`).

In: `Work`s, one per upstream or checkpoint, each with payloads that only the caller understands. Out: which payloads
succeeded, and why the others failed.

| module | what it holds |
|---|---|
| `engine` | what `--jobs` and `--slurm` ask for |
| `work` | `Work`: the function that a job calls, in a process of its own |
| `submission` | `StudyJob`, and how jobs are handed to submitit: cores shared, GPUs in turn, one SLURM array |
| `run` | `run_jobs`: submits, watches, reports, and takes up what earlier commands submitted to SLURM |

The jobs are run by submitit, which speech groups use already: it needs no server and nothing on the cluster but SLURM,
queues a job again where SLURM preempts it or its time is up, and has an executor for a single machine with the same
interface. Workflow engines (Snakemake, Nextflow) would need rules alongside the config; Ray and Dask keep processes of
their own alive inside SLURM's jobs.
"""

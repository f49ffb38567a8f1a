import os

os.environ["FOUNDATIONS_COMMAND_LINE"] = "True"

import foundations

RATES = [0.1, 0.2, 0.3]

jobs = {}
for rate in RATES:
    # Each job gets the directory as it is now, although the parameters file is written again for the next one.
    jobs[str(rate)] = foundations.submit(
        scheduler_config="scheduler",
        job_directory=".",
        command=["main.py"],
        params={"rate": rate, "layers": [8, 4]},
    )
foundations.wait_on_deployment_set(jobs)
for rate, job in jobs.items():
    said = [line for line in job.get_job_logs().splitlines() if line.startswith("rate")]
    print(rate, job.job_name(), job.get_job_status(), *said)

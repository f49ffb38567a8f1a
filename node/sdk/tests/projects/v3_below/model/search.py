import foundations

rates = [0.25, 0.5]

if __name__ == "__main__":
    for rate in rates:
        job = foundations.submit(
            scheduler_config="lab",
            job_directory="..",
            command="model/main.py",
            params={"rate": rate, "sizes": [(3, 3), (5, 5)]},
            stream_job_logs=False,
        )
        job.wait_for_deployment_to_complete(log_output=False)
        print(rate, job.job_name())

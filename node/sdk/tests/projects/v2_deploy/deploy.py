import os

os.environ["FOUNDATIONS_COMMAND_LINE"] = "True"

import foundations

deployment = foundations.deploy(
    project_name="v2-deploy",
    env="local",
    entrypoint="project_code.driver",
    params={"rate": 0.25, "epochs": 4, "layers": [{"units": 4}]},
)
deployment.wait_for_deployment_to_complete()
print(deployment.job_name(), deployment.get_job_status())

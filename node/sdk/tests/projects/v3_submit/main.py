import os

import foundations

params = foundations.load_parameters()
print("rate", params["rate"], "threads", os.environ["OMP_NUM_THREADS"])

score = 0.0
for epoch in range(5):
    score += params["rate"]
    foundations.log_metric("score", score)
foundations.log_metrics({"final": score, "layers": len(params["layers"])})
foundations.log_param("optimizer", "adam")
foundations.set_tag("generation", "v3")

checkpoints = foundations.create_syncable_directory("checkpoints", "checkpoints")
with open(os.path.join(str(checkpoints), "last.txt"), "w") as file:
    file.write(str(score))
checkpoints.upload()
foundations.save_artifact("checkpoints/last.txt")

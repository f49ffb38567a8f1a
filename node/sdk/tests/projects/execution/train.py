import foundations

foundations.log_params({"optimizer": {"name": "adam", "betas": [0.9, 0.99]}})
for step in range(10):
    foundations.log_metric("loss", 1.0 / (step + 1), step=step * 100)
foundations.set_tag("generation", "execution")
print("trained")

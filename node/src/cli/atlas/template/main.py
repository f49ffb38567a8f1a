"""Fits a line to points that it makes itself, and tracks how well that goes. Replace it by your own program."""

import json
import random

import foundations

params = foundations.load_parameters()
rate = params.get("learning_rate", 0.1)
epochs = params.get("epochs", 20)

random.seed(params.get("seed", 1))
points = [(x / 50, 3 * x / 50 - 1 + random.gauss(0, 0.1)) for x in range(100)]

slope = intercept = 0.0
for epoch in range(epochs):
    for x, y in random.sample(points, len(points)):
        error = slope * x + intercept - y
        slope -= rate * error * x
        intercept -= rate * error
    loss = sum((slope * x + intercept - y) ** 2 for x, y in points) / len(points)
    foundations.log_metric("loss", loss)

print("y = {:.2f} x + {:.2f}, loss {:.4f}".format(slope, intercept, loss))
with open("model.json", "w") as file:
    json.dump({"slope": slope, "intercept": intercept}, file)
foundations.save_artifact("model.json", key="model")
foundations.set_tag("model", "line")

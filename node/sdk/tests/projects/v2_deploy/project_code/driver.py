import foundations
from project_code.model import Model

# Imported by Foundations, run as a program here: both ways this is what happens.
params = foundations.load_parameters()
losses = Model(params["rate"]).losses(params.get("epochs", 3))

for loss in losses:
    foundations.log_metric("loss", loss)
foundations.log_metric("epochs", len(losses))
foundations.set_tag("generation", "v2")

if __name__ == "__main__":
    with open("model.txt", "w") as file:
        file.write(repr(losses))
    foundations.save_artifact("model.txt", key="model")
    print("final loss", losses[-1])

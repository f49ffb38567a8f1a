import foundations
from project_code import model

load = foundations.create_stage(model.load)
train = foundations.create_stage(model.train)

score = train(load(10), rate=foundations.Hyperparameter("rate"))
score.run(params_dict={"rate": 0.5})

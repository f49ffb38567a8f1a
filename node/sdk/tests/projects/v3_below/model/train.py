def train(rate):
    return {"best:loss": 1 - rate, "epochs": 3}

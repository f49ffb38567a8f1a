from foundations import log_metric


def load(size):
    return list(range(size))


def train(rows, rate):
    score = sum(rows) * rate
    log_metric("score", score)
    return score

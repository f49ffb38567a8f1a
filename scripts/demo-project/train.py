"""Trains a small neural network on Fisher's iris flowers, with Python's standard library alone.

One job trains one network from one seed. The seed comes from the job's place in its array
(FNODE_ARRAY_INDEX), or from --seed; it decides the split into training and test flowers, the first
weights and the order of the steps, so a seed gives the same result on every machine.

Prints the accuracy on flowers that it has not seen while it learns, and writes result.json.
"""

import argparse
import csv
import json
import math
import os
import random
import time

HIDDEN = 24
TEST_SHARE = 0.3


def load(path):
    """Returns features, shape (n, 4) in cm, and labels, n numbers from 0, with the labels' names."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    names = sorted({row[-1] for row in rows})
    return [[float(value) for value in row[:-1]] for row in rows], [names.index(row[-1]) for row in rows], names


def standardize(train, test):
    """Both with the means and deviations of the training flowers alone: the test must stay unseen."""
    columns = list(zip(*train))
    means = [sum(column) / len(column) for column in columns]
    deviations = [math.sqrt(sum((v - m) ** 2 for v in column) / len(column)) for column, m in zip(columns, means)]

    def scale(rows):
        return [[(v - m) / d for v, m, d in zip(row, means, deviations)] for row in rows]

    return scale(train), scale(test)


class Network:
    """Four inputs, one tanh layer, softmax over the species; trained by stochastic gradient descent."""

    def __init__(self, rng, inputs, outputs):
        self.first = [[rng.gauss(0, 1 / math.sqrt(inputs)) for _ in range(inputs + 1)] for _ in range(HIDDEN)]
        self.second = [[rng.gauss(0, 1 / math.sqrt(HIDDEN)) for _ in range(HIDDEN + 1)] for _ in range(outputs)]

    def forward(self, row):
        """Returns the hidden layer, its constant 1 included, and the probability of each species."""
        row = [*row, 1.0]
        hidden = [math.tanh(sum(w * v for w, v in zip(weights, row))) for weights in self.first]
        hidden.append(1.0)
        scores = [sum(w * v for w, v in zip(weights, hidden)) for weights in self.second]
        top = max(scores)
        powers = [math.exp(score - top) for score in scores]
        total = sum(powers)
        return hidden, [power / total for power in powers]

    def learn(self, row, label, rate):
        """One step on one flower. Returns its loss (cross-entropy) before the step."""
        hidden, chances = self.forward(row)
        errors = [chance - (species == label) for species, chance in enumerate(chances)]
        back = [sum(e * weights[unit] for e, weights in zip(errors, self.second)) for unit in range(HIDDEN)]
        for error, weights in zip(errors, self.second):
            for unit, value in enumerate(hidden):
                weights[unit] -= rate * error * value
        row = [*row, 1.0]
        for unit, weights in enumerate(self.first):
            slope = back[unit] * (1 - hidden[unit] ** 2)
            for place, value in enumerate(row):
                weights[place] -= rate * slope * value
        return -math.log(max(chances[label], 1e-12))

    def accuracy(self, rows, labels):
        """The share of flowers whose most likely species is the right one, 0 to 1."""
        hits = 0
        for row, label in zip(rows, labels):
            chances = self.forward(row)[1]
            hits += chances.index(max(chances)) == label
        return hits / len(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=int(os.environ.get("FNODE_ARRAY_INDEX", "1")))
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--rate", type=float, default=0.01)
    args = parser.parse_args()

    rng = random.Random(args.seed)
    rows, labels, names = load(os.path.join(os.path.dirname(os.path.abspath(__file__)), "iris.csv"))
    order = list(range(len(rows)))
    rng.shuffle(order)
    split = round(len(order) * TEST_SHARE)
    test, train = order[:split], order[split:]
    train_rows, test_rows = standardize([rows[i] for i in train], [rows[i] for i in test])
    train_labels, test_labels = [labels[i] for i in train], [labels[i] for i in test]
    network = Network(rng, len(rows[0]), len(names))

    began = time.monotonic()
    print(f"seed {args.seed}: {len(train)} flowers to learn from, {len(test)} to be tested on", flush=True)
    places = list(range(len(train_rows)))
    every = max(1, args.epochs // 12)
    for epoch in range(1, args.epochs + 1):
        rng.shuffle(places)
        loss = sum(network.learn(train_rows[i], train_labels[i], args.rate) for i in places) / len(places)
        if epoch % every == 0 or epoch == args.epochs:
            accuracy = network.accuracy(test_rows, test_labels)
            print(f"seed {args.seed}: epoch {epoch:3}  loss {loss:.4f}  accuracy {accuracy:.3f}", flush=True)

    result = {
        "seed": args.seed,
        "epochs": args.epochs,
        "loss": round(loss, 6),
        "accuracy": round(accuracy, 4),
        "seconds": round(time.monotonic() - began, 2),
        "node": os.environ.get("FNODE_NODE", ""),
        "attempt": int(os.environ.get("FNODE_ATTEMPT", "1")),
    }
    with open("result.json", "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()

"""Trains a neural network on Fisher's iris flowers with scikit-learn, in an environment that the node builds.

One job trains one network from one seed (FNODE_ARRAY_INDEX, or --seed), prints the accuracy on flowers that
it has not seen, and writes result.json. The data set comes with scikit-learn.
"""

import argparse
import json
import os
import time

from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=int(os.environ.get("FNODE_ARRAY_INDEX", "1")))
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--rate", type=float, default=0.01)
    args = parser.parse_args()

    began = time.monotonic()
    rows, labels = load_iris(return_X_y=True)
    train_rows, test_rows, train_labels, test_labels = train_test_split(
        rows, labels, test_size=0.3, random_state=args.seed
    )
    scaler = StandardScaler()
    train_rows, test_rows = scaler.fit_transform(train_rows), scaler.transform(test_rows)
    network = MLPClassifier(hidden_layer_sizes=(24,), learning_rate_init=args.rate, random_state=args.seed)
    print(f"seed {args.seed}: {len(train_rows)} flowers to learn from, {len(test_rows)} to be tested on", flush=True)
    every = max(1, args.epochs // 12)
    for epoch in range(1, args.epochs + 1):
        network.partial_fit(train_rows, train_labels, classes=[0, 1, 2])
        if epoch % every == 0 or epoch == args.epochs:
            accuracy = float(network.score(test_rows, test_labels))
            print(f"seed {args.seed}: epoch {epoch:3}  loss {network.loss_:.4f}  accuracy {accuracy:.3f}", flush=True)

    result = {
        "seed": args.seed,
        "epochs": args.epochs,
        "loss": round(float(network.loss_), 6),
        "accuracy": round(accuracy, 4),
        "seconds": round(time.monotonic() - began, 2),
        "node": os.environ.get("FNODE_NODE", ""),
        "attempt": int(os.environ.get("FNODE_ATTEMPT", "1")),
    }
    with open("result.json", "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()

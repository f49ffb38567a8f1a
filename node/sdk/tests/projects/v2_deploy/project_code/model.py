class Model:
    def __init__(self, rate):
        self.rate = rate

    def losses(self, epochs):
        return [1.0 / (1.0 + self.rate * epoch) for epoch in range(epochs)]

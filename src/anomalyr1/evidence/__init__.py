"""Evidence: what a few good parts say about a new one.

    bank = Bank.learn(paths)
    measurement = bank.measure(image)      # measurement.evidence.score: higher = stranger

`backbone` turns a picture into patch features, `bank` keeps those of good parts, `measure` compares a picture
with them, `promise` says what good parts that were held out allow to claim, `words` writes it as a sentence
and reads it back.
"""

"""The paper's experiment, does ROAM help, at a size that everyone can run: arms, runs, answers, and the page
that says what came out.
"""

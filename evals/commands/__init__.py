"""What the commands of `pageglass eval` do, by what they are about; evals.cli lists them.

Heavy imports happen inside the commands, so that --help is instant.
"""

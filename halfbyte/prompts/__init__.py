"""Prompt formats as pure text: chat templates, closed context, function calls, chain of thought, plain code.

Nothing here knows a model or touches a file. Every reader is linear in its input and raises nothing but PromptError.
"""

"""Every adapter method, and how to attach any of them to a model.

table       every method by name: one record each
builders    what the records build: configurations, step rules, groups, optimizers
spec        the form of a record, and the specification of one adapter
attachment  attach any method to any model, and detach it
injection   PEFT's layers on a module: inject, read, fill and scale them
decay       weight decay towards a start that is not zero
optimizers  one optimizer for an adapter, with its method's parameter groups
steps       what a method does around each step
first_step  how far the first step moves a weight
prodigy     Prodigy with a learning rate for each group
quantised   which methods work on a quantised base
"""

"""Every adapter method of the field, and how any of them goes on any model.

table       every method by name: one record each
builders    what the records build: configurations, step rules, groups, optimizers
spec        the form of a record, and an adapter as a person asks for it
attachment  attach and detach any method on any model; what is trained in between
injection   PEFT's layers on a module: put there, read, filled, scaled
decay       weight decay towards the start, where the start is not zero
optimizers  each method's own parameter groups and rules
steps       what a method does around each step
quantised   which methods can stand beside a base in few bits
"""

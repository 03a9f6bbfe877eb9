"""A discrete-event simulation of an outage: many clients, one server, a virtual clock.

What the adapter does in it is decided by the package's own core and guards, not by a model of them.
"""

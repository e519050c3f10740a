"""What travels on the bus between the management plane, the agents and whoever watches them.

Pure: no I/O, no clock, and nothing imported from the rest of this project. `docs/asyncapi.yaml` is generated from here.
"""

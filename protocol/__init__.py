"""The messages between the management plane, the agents and the tools that watch them.

Pure: no I/O, no clock, and nothing imported from the rest of this project. `docs/asyncapi.yaml` is generated from here.
"""

"""How is a rig watched at work, for as long as its owner likes, at next to no cost?

Events come from a live rig, a recorded rig or a recording (sources, recording), are written as they come (recording)
and add up to one summary in constant memory (fold); loop puts them together.
"""

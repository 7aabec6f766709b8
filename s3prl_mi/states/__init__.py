"""Stage 4: splits x upstream x views -> hidden states of every layer, on disk or in memory.

=============  ==================================================================================================
extraction     forward passes over a split into a store, shared by all processes (`Request`, `extract`)
entry          what one pass has left: reading a finished entry, layer by layer
journal        what a part of an unfinished entry says about its batches, with checksums
writer         filling an entry batch by batch, in parts; continuing what a killed run has left
store          finding entries on disk, making room for new ones, removing
memory_store   the same in memory
float16        how states are rounded for storage, and whether that is exact enough
placement      disk, memory, or a few layers at a time: the choice, and the memory that is free
provider       the states of an experiment, group of layers by group of layers (`HiddenStateProvider`)
waveforms      hidden states of single waveforms, for s3prl's own tasks (`WaveformStates`)
split_states   the fit side and the eval side with their states (`SplitStates`)
layer_weights  s3prl's Featurizer: the weighted sum of all layers as a layer
=============  ==================================================================================================
"""

"""Stage 5: estimates -> records, and what may be compared.

===================  ==========================================================================================
record               `Record`, a line of `mi_results.jsonl`: every field, written and read
class_contributions  `ClassRecord`, a line of `mi_classes.jsonl`: what each phone or cluster contributes
speaker_sums         `SpeakerRecord`, a line of `mi_speakers.jsonl`: sums by eval speaker, for intervals
measures             `MeasureRecord`, a line of `mi_measures.jsonl`: ranks, purities and others beside the bounds
ties                 which layers or models the speakers scored cannot tell apart
comparability        `ComparisonKey`: what must agree before two estimates are compared
summary              mean and standard deviation over seeds, `mi_summary.csv`
collect              the records of many experiments, each named by its model
selection            which layer, which checkpoint: chosen without labels and with labels
candidates           what the board reads of each model: label-free measures, and what they are judged by
board                what each label-free measure is worth as a picker of layers and checkpoints
correlation          Spearman, Kendall and Pearson with intervals and a sentence
===================  ==========================================================================================
"""

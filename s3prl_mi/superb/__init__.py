"""Stage 4: LibriSpeech and its transcripts -> what s3prl's own tasks need, and the error rates that they reach.

s3prl's runner, experts, losses and decoding stay as they are; this package stands before them and after them. It lies
below `report`, as PER and WER are read next to the bits, and above `data`, whose utterances, transcripts and
pronunciations it takes. What the installed s3prl has itself is never replaced.

=========  =========================================================================================================
tasks      SUPERB's tasks by s3prl's names; which packages, config and data each needs, and what of it is missing
prepare    a task's config -> the keys that s3prl would not find filled in; refused before anything is loaded
corpus     splits -> utterances that can be used, their text and lengths; what was skipped and why
lexicon    words -> phones with stress: the user's lexicons, or the CMU dictionary; guessed words
targets    utterances -> phones or characters of the task's vocabulary
datasets   `s3prl.downstream.ctc.corpus.*`, which s3prl from PyPI lacks (`downstream.hook` puts them there)
arks       hypotheses and references that s3prl wrote -> errors by kind; stands in for the package `editdistance`
scores     one record for each test score, in `superb_results.jsonl`
=========  =========================================================================================================

`vocabulary` holds symbols in s3prl's order (phones in alphabetical order, characters by frequency): a checkpoint's
output layer depends on it.
"""

"""Numbers about a layer's states that are not bounds by probes: what may pick a layer or a checkpoint without labels.

| module | what |
|---|---|
| `registry` | `Measure`, the table of all measures, which of them a config asks for |
| `sample` | `Sample`: what measures read of one layer; moments and spectra that several share |
| `spectrum` | ranks and decay of the spectrum |
| `views` | how alike two views are |
| `units` | codebooks against labels: PNMI, purities; Davies-Bouldin |
| `reference` | states against labels and fbank: canonical correlations, bits beyond fbank, margin |

A new measure is one function in one of these modules or in a new one of this folder, under the decorator `measure` that
says what it is (README, "A measure of your own"). Nothing else needs to change: config key `measures`,
`mi_measures.jsonl`, `s3prl-mi explain measures` and the board read the table.
"""

"""Cards of shard sets and of exported generators: what they are made from, by what, how they were judged, and what
they are not for. Written from the manifest and the evaluation alone, so that the same files give the same card."""

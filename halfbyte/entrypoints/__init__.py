"""Programs that are started as those of other projects are."""

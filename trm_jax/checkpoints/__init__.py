"""Our folders on disk: models and training runs, checked before they are used."""

"""What tests share: models and trainings small enough to be quick, the scripts as a user runs them, ways to spoil files."""

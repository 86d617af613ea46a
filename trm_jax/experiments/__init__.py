"""Studies made of many trainings and evaluations."""

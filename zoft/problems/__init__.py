"""Problems: a task made ready for one model, with its rows; what is trained on, and what is measured."""

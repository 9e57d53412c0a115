"""One method, one file. ``base.py`` says what a method is; everything else in this folder is one."""

"""Weight files in HDF5 (Keras, Caffe), read in a child process with limits."""

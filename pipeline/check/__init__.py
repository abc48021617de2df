"""Say what is wrong with photos or records before anything is trained on them."""

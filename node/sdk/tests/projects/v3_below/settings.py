TRACK = True

#include "COpenBLAS.h"
int cob_placeholder(void) { return 0; }

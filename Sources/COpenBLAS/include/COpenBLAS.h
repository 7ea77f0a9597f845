#pragma once
int cob_placeholder(void);

// The page of the lessons needs a script for its theme only.
import { openTheme } from "./theme.js";

openTheme();
